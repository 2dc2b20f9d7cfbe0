"""A whole job on the GPU, as `docker run IMAGE train` starts it: stopped in its middle, started again, and what it leaves."""

import time

import torch

from containers.core import artifact
from containers.core.manifest import EAGER_TOLERANCE, GOLDEN_FILE
from containers.core.preprocessing import decode, prepare
from tests.gpu.train.started import Job, newest, wait_at

SETTINGS = {
    "architecture": "resnet18", "image_size": 64, "pretrained": "none", "engines": "none", "batch_size": 8,
    "head_epochs": 1, "epochs": 2,
}  # fmt: skip
STEPS = 4
"""An epoch: 32 photos."""


def test_a_job_that_is_stopped_and_goes_on_leaves_a_model_that_a_cpu_uses(tmp_path, data, record_property):
    with Job(tmp_path, data, "auto", program=wait_at(STEPS + 2), **SETTINGS) as job:
        job.wait_for('"waits"')
        asked = time.perf_counter()
        assert job.stop().wait() == 0, job.out
        record_property("seconds from SIGTERM to exit", round(time.perf_counter() - asked, 2))
    _computes_on_the_gpu(job)
    progress = newest(tmp_path / "model.run/checkpoints")["progress"]
    assert (progress["phase"], progress["epoch"], progress["samples"]) == (1, 0, 3 * SETTINGS["batch_size"])
    assert job.failure is None
    _answers_golden(tmp_path / "model")
    again = Job(tmp_path, data, "auto", **SETTINGS).end()
    assert again.logged("resumed")
    assert [line["phase"] for line in again.logged("epoch")] == ["all", "all"]
    _computes_on_the_gpu(again)
    _answers_golden(tmp_path / "model")
    assert torch.cuda.get_device_name() in (tmp_path / "model/report/index.html").read_text()
    assert (tmp_path / "model.run/output/report/MODEL_CARD.md").exists()
    assert again.failure is None
    told = (job.out + again.out).lower()
    assert not [word for word in ("destroy_process_group", "userwarning", "traceback") if word in told], told


def _computes_on_the_gpu(job):
    """Which it found by itself: a user does not say that there is one."""
    (computing,), (checked,) = job.logged("computing"), job.logged("accelerator")  # the latter by preflight, before any worker
    assert (checked["device"], checked["gpus"]) == (torch.cuda.get_device_name(), torch.cuda.device_count())
    native = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
    assert (computing["device"], computing["precision"]) == (torch.cuda.get_device_name(), native)


def _answers_golden(model_dir):
    model = artifact.load(model_dir)
    spec, facts = model.manifest.preprocessing, model.manifest
    pixels = torch.from_numpy(prepare(decode((model_dir / GOLDEN_FILE).read_bytes(), spec), spec).copy())
    with torch.inference_mode():
        logits = model.build()(artifact.normalise(pixels[None], spec.mean, spec.std))
    answer = (logits / facts.calibration.temperature).softmax(1)[0]
    assert torch.allclose(answer, torch.tensor(facts.golden.probabilities), atol=EAGER_TOLERANCE)
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict.values())
