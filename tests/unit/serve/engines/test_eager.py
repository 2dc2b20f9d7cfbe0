import pytest
import torch
from torch import Tensor

from containers.core import architectures
from containers.core.accelerator import Accelerator
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_model_process_takes_nothing_of_the_first_gpu_where_it_has_another(model_dir, manifest, monkeypatch):
    second, current = torch.device("cuda", 1), []
    t4 = Accelerator(device=second, name="T4", amp_dtype=torch.float16)
    monkeypatch.setattr(
        eager.accelerator, "detect", lambda kind, *, local_rank: t4 if (kind, local_rank) == ("cuda", 1) else None
    )
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with pytest.raises(RuntimeError, match="NVIDIA"):  # no such GPU here to move the model to
        eager.load(model_dir, manifest, device="cuda:1")
    assert current == [second]


def test_what_a_library_hides_is_asked_of_the_model_s_own_gpu_and_never_of_a_cpu(model_dir, manifest, monkeypatch):
    """Its stream says what any call would say once the device has broken."""
    second, hidden = torch.device("cuda", 1), RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def query(self) -> bool:
            raise RuntimeError(f"CUDA error: device-side assert triggered on {self.device}")

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    assert eager.load(model_dir, manifest).reported_late(hidden) is None
    t4 = Accelerator(device=second, name="T4", amp_dtype=torch.float16)
    monkeypatch.setattr(eager.accelerator, "detect", lambda kind, *, local_rank: t4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(eager, "_forward", lambda model, manifest, found: None)
    monkeypatch.setattr(eager, "CudaRecorder", lambda device: None)
    engine = eager.load(model_dir, manifest, device="cuda:1")
    assert str(engine.reported_late(hidden)) == f"CUDA error: device-side assert triggered on {second}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_stays_close(model_dir, manifest, photos):
    wide, half = eager.load(model_dir, manifest)(photos), eager.load(model_dir, manifest, device="cuda")
    assert abs(half(photos) - wide).max() < half.tolerance


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "convnext_tiny"])
def test_weights_cast_once_answer_as_those_that_autocast_casts_at_every_call(name: str):
    torch.manual_seed(0)
    model = architectures.build(name, 3).eval()
    pixels = torch.randn(2, 3, 64, 64)

    def answer() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return model(pixels)

    before = answer()
    eager.cast_weights(model, torch.bfloat16)
    assert {p.dtype for m in model.modules() if isinstance(m, torch.nn.Conv2d) for p in m.parameters()} == {torch.bfloat16}
    assert torch.equal(answer(), before)


def test_on_a_cpu_nothing_is_recorded(model_dir, manifest):
    assert eager.load(model_dir, manifest).record(manifest.preprocessing.shape, (1, 2, 4, 8)) == ()
