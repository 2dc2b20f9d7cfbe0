import contextlib
import dataclasses
import signal

import pytest
import torch
from torch import nn

from containers.core.accelerator import Accelerator
from containers.core.errors import AcceleratorError, ConfigError
from containers.train import phases, run
from containers.train.agreement import StopRequest, StopRequested
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.run import agreed_precision, largest_batch
from tests.support.training import in_ranks

T4 = Accelerator(device=torch.device("cpu"), name="T4", amp_dtype=torch.float16)
A10G = Accelerator(device=torch.device("cpu"), name="A10G", amp_dtype=torch.bfloat16)


def test_alone_a_gpu_takes_its_own_precision_or_the_one_chosen():
    assert agreed_precision("auto", A10G, Group.alone()) is torch.bfloat16
    assert agreed_precision("fp16", A10G, Group.alone()) is torch.float16
    assert agreed_precision("fp32", A10G, Group.alone()) is None


def test_a_precision_that_the_gpu_would_have_to_imitate_is_refused():
    cpu = Accelerator(device=torch.device("cpu"), name="cpu", amp_dtype=None)
    assert agreed_precision("bf16", A10G, Group.alone()) is agreed_precision("bf16", cpu, Group.alone()) is torch.bfloat16
    with pytest.raises(ConfigError, match="T4 has no bfloat16: set precision to auto, fp16 or fp32"):
        agreed_precision("bf16", T4, Group.alone())


@pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32 behavior")
@pytest.mark.parametrize(("precision", "matmul", "convolutions"), [("auto", "high", True), ("fp32", "highest", False)])
def test_fp32_is_fp32_also_in_convolutions(monkeypatch, precision, matmul, convolutions):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    gpu = Accelerator(device=torch.device("cuda", 1), name="A10G", amp_dtype=torch.bfloat16)
    try:
        run._set_numerics(TrainConfig(precision=precision), gpu)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (matmul, convolutions)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert chosen == [gpu.device]


class _Small(nn.Module):
    """A device that holds `room` photos."""

    def __init__(self, room):
        super().__init__()
        self.room, self.seen = room, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3))


def test_a_full_gpu_evaluates_fewer_photos_at_once_with_the_same_answers(job, caplog):
    this = run.prepare(job(deterministic=False), StopRequest())
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    small, roomy = _Small(5).eval(), _Small(99).eval()
    forward = this.forward(small, None)
    assert torch.allclose(forward(images), this.forward(roomy, None)(images), atol=1e-6)
    assert small.seen == [16, 8, 4, 4, 4, 4, 4]
    assert [record.photos_at_once for record in caplog.records if "evaluating fewer" in record.message] == [8, 4]
    small.seen.clear()
    forward(images[:6])
    assert small.seen == [4, 2]  # from then on
    with pytest.raises(AcceleratorError, match="out of memory with one photo: lower image_size"):
        this.forward(_Small(0), None)(images)


@pytest.mark.parametrize("world_size", [1, 2])
def test_who_has_no_peers_leaves_a_pass_that_compiles_and_others_hold_their_signals(job, world_size):
    this = run.prepare(job(), request := StopRequest())
    this = dataclasses.replace(this, group=dataclasses.replace(this.group, world_size=world_size))
    held = lambda: signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # noqa: E731
    with this.compiling():
        assert held() is (world_size == 2)
    request.asked = True
    with pytest.raises(StopRequested) if world_size == 1 else contextlib.nullcontext(), this.compiling():
        assert world_size == 2
    assert not held()


def test_a_run_goes_on_on_a_gpu_of_another_kind(job):
    """bf16 scales no loss and saves no scale; fp16 begins with its own, and goes on with what fp16 saved."""

    def phase(precision):
        settings = {"precision": precision, "head_epochs": 0, "deterministic": False}
        return phases.start(run.prepare(job(precision, **settings), StopRequest()), phases.ALL)

    wide, scaled = phase("fp32"), phase("fp16")
    begun = scaled.stepper.scaler.state_dict()
    scaled.load_state_dict(wide.state_dict())
    assert scaled.stepper.scaler.state_dict() == begun
    wide.load_state_dict(scaled.state_dict())
    scaled.load_state_dict(scaled.state_dict() | {"scaler": begun | {"scale": 8.0}})
    assert scaled.stepper.scaler.get_scale() == 8.0


@pytest.mark.parametrize(("batch_size", "world_size", "largest"), [(256, 2, 128), (16, 1, 64), (257, 4, 65)])
def test_shared_memory_must_hold_batches_of_evaluation_too(batch_size, world_size, largest):
    group = Group(0, world_size, 0, torch.device("cpu"))
    assert largest_batch(TrainConfig(batch_size=batch_size), group) == largest


def test_ranks_on_different_gpus_never_mix_precisions():
    def body(group):
        device = (T4, A10G)[group.rank]
        with pytest.raises(ConfigError, match=r"A10G, T4.*set precision"):
            agreed_precision("auto", device, group)
        return agreed_precision("fp16", device, group)

    assert in_ranks(2, body) == [torch.float16, torch.float16]
