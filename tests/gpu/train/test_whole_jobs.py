"""Whole jobs on the GPU: what they choose, what they leave, and that a host without a GPU can use it."""

import pytest
import torch

from containers.core import artifact
from containers.core.manifest import EAGER_TOLERANCE, GOLDEN_FILE
from containers.core.preprocessing import decode, prepare
from tests.gpu.train.started import SMALL, Job


@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_a_job_of_two_phases_leaves_a_model_that_a_cpu_uses(tmp_path, data, gpu, precision):
    native = "bfloat16" if gpu.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0) else "float16"
    named = {"auto": native if gpu.type == "cuda" else "float32", "fp16": "float16", "fp32": "float32"}
    found = "auto" if gpu.type == "cuda" else "cpu"  # a user does not say that there is a GPU
    job = Job(tmp_path, data, found, **SMALL, precision=precision, head_epochs=2, epochs=2).end()
    assert [line["phase"] for line in job.logged("epoch")] == ["head", "head", "all", "all"]
    (computing,) = job.logged("computing")
    assert computing["precision"] == named[precision]
    if gpu.type == "cuda":
        (checked,) = job.logged("accelerator")  # by preflight, before any worker
        assert (checked["device"], checked["gpus"]) == (torch.cuda.get_device_name(), torch.cuda.device_count())
        assert computing["device"] == torch.cuda.get_device_name()
    _answers_golden(tmp_path / "model")
    page = (tmp_path / "model/report/index.html").read_text()
    assert computing["device"] in page
    assert (tmp_path / "model.run/output/report/MODEL_CARD.md").exists()
    assert job.failure is None
    told = job.out.lower()
    assert not [word for word in ("destroy_process_group", "userwarning", "traceback") if word in told], job.out


def _answers_golden(model_dir):
    model = artifact.load(model_dir)
    spec, facts = model.manifest.preprocessing, model.manifest
    pixels = torch.from_numpy(prepare(decode((model_dir / GOLDEN_FILE).read_bytes(), spec), spec).copy())
    with torch.inference_mode():
        logits = model.build()(artifact.normalise(pixels[None], spec.mean, spec.std))
    answer = (logits / facts.calibration.temperature).softmax(1)[0]
    assert torch.allclose(answer, torch.tensor(facts.golden.probabilities), atol=EAGER_TOLERANCE)
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict.values())
