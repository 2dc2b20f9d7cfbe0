"""torch.compile: the same step, one program for the passes that nearly all steps make, and words for what cannot be compiled.

With torch's compiler front alone, or one that fails; `test_compiled_runs` has the real one.
"""

import dataclasses
import signal
import threading
from functools import partial

import pytest
import torch
from torch import nn

from containers.core import host
from containers.core.errors import AcceleratorError
from containers.train.data import signals_held
from containers.train.errors import WorkerFailed
from tests.unit.train.convolution import SETTINGS, Net, batch, close, net
from tests.unit.train.steps import stepper

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # torch's own, inside


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


def test_a_photo_that_is_computed_twice_for_batch_norm_is_compiled_too(caplog, no_kernels):
    caplog.set_level("INFO")
    steps = stepper(net(), torch_compile=True, micro_batch_size=1, **SETTINGS)
    steps._least = 2
    steps.step(batch(), 0.1, 0)
    assert compiled(caplog) == [2]


def test_a_rank_without_photos_compiles_nothing(caplog, no_kernels):
    """As the third of three where a whole batch is two: it takes part with one photo that counts nothing."""
    caplog.set_level("INFO")
    steps = stepper(net(), torch_compile=True, **SETTINGS)
    steps._usual = 0
    steps.step(dataclasses.replace(batch(1), local=0, total=2), 0.1, 0)
    assert compiled(caplog) == []


@pytest.mark.parametrize("chosen", [None, "3"])
def test_as_many_processes_compile_as_this_rank_has_cores(monkeypatch, no_kernels, chosen):
    """Torch counts the host's, for each rank."""
    from torch._inductor import config as inductor

    monkeypatch.setattr(host, "cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", chosen)
    with inductor.patch(compile_threads=3):
        stepper(net(), torch_compile=True, **SETTINGS)
        assert inductor.compile_threads == (4 if chosen is None else 3)


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
