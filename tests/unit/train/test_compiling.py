"""torch.compile: the same step, one program for the passes that nearly all steps make, and words for what cannot be compiled.

What Kennel decides is tested with torch's compiler front alone; whole programs are made by the real compiler, for a CPU, with
g++, in ranks of their own: a process that has compiled must not fork ranks that compile. They find what others made in one
folder.
"""

import signal
import threading
from functools import partial

import pytest
import torch
from torch import nn

from containers.core import architectures
from containers.core.architectures import Architecture
from containers.core.errors import AcceleratorError
from containers.train.data import Batch, signals_held
from containers.train.errors import WorkerFailed
from tests.support.training import Workers, events, in_ranks, learned, make_job, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint
from tests.unit.train.steps import stepper

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # torch's own, inside
INTERRUPTED = 75
SETTINGS = {"optimizer": "sgd", "momentum": 0, "backbone_lr_factor": 1}


class Net(nn.Module):
    """A convolution, batch norm and a head."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().to(memory_format=torch.channels_last)


def batch(count=8, rank=0, world=1):
    generator = torch.Generator().manual_seed(count)
    images, labels = torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 3
    mine = slice(rank, None, world)
    return Batch(images[mine].contiguous(memory_format=torch.channels_last), labels[mine], len(labels[mine]), count)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture
def no_kernels(monkeypatch):
    """Passes are traced and looked up as ever, and then computed by plain torch."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch.compiler.reset()


def trained(counts, **settings):
    """The net after a step on each batch of so many photos, and the loss of each."""
    module = net()
    steps = stepper(module, **SETTINGS, **settings)
    return module, [float(steps.step(batch(count), 0.1, number)) for number, count in enumerate(counts)]


def close(one, other):
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(one.values(), other.values(), strict=True))


def compiled(caplog):
    """How many photos each program is for."""
    return [record.photos for record in caplog.records if record.getMessage() == "compiled"]


@pytest.mark.parametrize(("settings", "programs"), [({}, [8]), ({"micro_batch_size": 3}, [3])])
def test_what_most_passes_hold_is_compiled_and_the_rest_is_computed_as_written(caplog, no_kernels, settings, programs):
    caplog.set_level("INFO")
    counts = [8, 5, 8, 3]
    (plain, expected), (module, losses) = trained(counts, **settings), trained(counts, torch_compile=True, **settings)
    assert compiled(caplog) == programs
    assert losses == pytest.approx(expected, rel=1e-6)
    assert close(module.state_dict(), plain.state_dict())
    assert list(module.state_dict()) == list(plain.state_dict())  # no name tells of it


class _Full(nn.Module):
    """A device that holds 4 photos."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        _room(len(x))
        return self.net(x)


@torch.compiler.disable
def _room(photos):
    if photos > 4:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_full_gpu_halves_what_is_compiled_too(caplog, no_kernels):
    caplog.set_level("INFO")
    stepper(_Full(), torch_compile=True, **SETTINGS).step(batch(), 0.1, 0)
    assert compiled(caplog) == [4]


def test_signals_wait_while_a_pass_compiles_and_not_afterwards(no_kernels):
    held = []

    class Looking(Net):
        def forward(self, x):
            look()
            return super().forward(x)

    @torch.compiler.disable
    def look():
        held.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))

    steps = stepper(Looking(), torch_compile=True, compiling=signals_held, **SETTINGS)
    for number in range(2):
        steps.step(batch(), 0.1, number)
    assert held == [True, False]


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_not_chosen_by_their_speed_where_a_run_must_repeat(no_kernels, deterministic):
    from torch._inductor import config as inductor

    stepper(net(), torch_compile=True, deterministic=deterministic)
    assert inductor.deterministic is deterministic


def test_the_head_on_features_is_not_compiled(no_kernels):
    """Every rank computes all of it, and a layer alone gains nothing."""
    assert stepper(net(), torch_compile=True, replicated=True)._compiled is None


def test_the_backward_pass_is_compiled_before_it_is_called(monkeypatch):
    """By the main thread, which hears signals."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    made, main = [], threading.current_thread()

    def maker(which):
        def make(graph, _inputs):
            made.append((which, not called, threading.current_thread() is main))
            return make_boxed_func(graph.forward)

        return make

    called = []
    backend = aot_autograd(fw_compiler=maker("forward"), bw_compiler=maker("backward"))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda *a, **k: (called.append(1), backward(*a, **k)))
    stepper(net(), torch_compile=True, **SETTINGS).step(batch(), 0.1, 0)
    torch.compiler.reset()
    assert made == [("forward", True, True), ("backward", True, True)]
    assert called


def failing(monkeypatch, error, most=0):
    """A compiler that raises `error` for more than so many photos."""

    def compiler(graph, inputs):
        if max(each.shape[0] for each in inputs if each.ndim == 4 and each.shape[1] == 3) > most:
            raise error
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            RuntimeError("no such compiler\nand 40 lines more"),
            AcceleratorError,
            r"^torch\.compile failed: set torch_compile to false, and the job goes on \(RuntimeError: no such compiler\)$",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), WorkerFailed, "set num_workers=0"),
    ],
)
def test_what_ends_compiling_is_said_with_its_remedy(monkeypatch, error, kind, says):
    failing(monkeypatch, error)
    steps = stepper(net(), torch_compile=True, **SETTINGS)
    with pytest.raises(kind, match=says):
        steps.step(batch(), 0.1, 0)
    torch.compiler.reset()


def test_a_gpu_that_is_full_while_it_compiles_takes_fewer_photos(monkeypatch, caplog):
    caplog.set_level("INFO")
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), most=4)
    stepper(net(), torch_compile=True, **SETTINGS).step(batch(), 0.1, 0)
    assert compiled(caplog) == [4]
    torch.compiler.reset()


@pytest.mark.slow
def test_two_ranks_that_compile_step_as_one_that_does_not():
    counts = [8, 8, 5]

    def still():
        module = net()
        module.norm.eval()  # its statistics are each rank's own
        return module

    def body(group):
        module = still()
        steps = stepper(module, group, torch_compile=True, **SETTINGS)
        for number, count in enumerate(counts):
            steps.step(batch(count, group.rank, 2), 0.1, number)
        return module.state_dict(), float(steps.clock.take_seconds())

    plain = still()
    steps = stepper(plain, **SETTINGS)
    for number, count in enumerate(counts):
        steps.step(batch(count), 0.1, number)
    (first, waited), (second, _) = in_ranks(2, body)
    assert same(first, second)
    assert close(first, plain.state_dict())
    assert waited > 0  # torch calls the clock's hook here too


@pytest.mark.slow
def test_a_run_that_compiles_is_left_while_it_does_and_ends_bitwise(tmp_path, index, monkeypatch):
    """Asked to stop while it compiles, begun again and killed in the middle of an epoch, and begun once more."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", Architecture(builder=Net, head="fc"))
    settings = {"architecture": "small", "head_epochs": 1, "epochs": 2, "torch_compile": True}
    straight = make_job(tmp_path / "straight", index, **settings)
    log = train(straight)
    again = make_job(tmp_path / "again", index, **settings, checkpoint_every_seconds=EVERY_STEP)
    stopped = Workers(again)
    stopped.until("compiling: this step takes minutes")
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == [INTERRUPTED]
    assert events(stopped, "compiled") == []
    assert newest(again)["progress"]["step"] == 3  # those of the head's epoch
    train(again, main=killed_after_checkpoint(5), expect=-9)
    train(again)
    assert same(learned(again), learned(straight))
    assert [event["photos"] for event in events(log, "compiled")] == [8]  # phase 2's; the head learns from features
