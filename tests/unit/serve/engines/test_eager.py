import pytest
import torch

from containers.core.errors import AcceleratorError
from containers.core.manifest import GOLDEN_FILE
from containers.core.preprocessing import decode, prepare
from containers.serve.engines import eager


def test_the_golden_photo_is_answered_as_training_did(model_dir, manifest):
    spec = manifest.preprocessing
    photo = prepare(decode((model_dir / GOLDEN_FILE).read_bytes(), spec), spec)  # read-only, as shared slots may be
    answer = eager.load(model_dir, manifest)(photo[None])
    assert answer[0].tolist() == pytest.approx(manifest.golden.probabilities, abs=1e-5)


def test_an_answer_does_not_depend_on_its_batch(model_dir, manifest, photos):
    engine = eager.load(model_dir, manifest, threads=2)
    assert torch.get_num_threads() == 2
    alone = [engine(photo[None])[0].tolist() for photo in photos]
    for together, single in zip(engine(photos).tolist(), alone, strict=True):
        assert together == pytest.approx(single, abs=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(model_dir, manifest):
    with pytest.raises(AcceleratorError, match=r"this host has none|cannot use"):
        eager.load(model_dir, manifest, device="cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_stays_close(model_dir, manifest, photos):
    wide, half = eager.load(model_dir, manifest)(photos), eager.load(model_dir, manifest, device="cuda")
    assert abs(half(photos) - wide).max() < half.tolerance
