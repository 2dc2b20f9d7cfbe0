"""Whole programs by torch's real compiler, for a CPU, in ranks of their own: a process that has compiled must not fork ranks
that compile. They find what others made in one folder.
"""

import signal

import pytest

from containers.core import architectures
from containers.core.architectures import Architecture
from containers.core.errors import ConfigError
from containers.train import machine
from tests.support.training import Workers, events, in_ranks, learned, make_job, newest, same, train
from tests.unit.train.convolution import SETTINGS, Net, batch, close, net
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint
from tests.unit.train.steps import stepper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # torch's own, inside
]
INTERRUPTED = 75


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    try:
        machine.check_compiler(0)
    except ConfigError as lacking:
        pytest.skip(str(lacking))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def test_two_ranks_that_compile_step_as_one_that_does_not():
    """Of 7 photos the ranks have 4 and 3, and compile; of 6 the first computes its 3 as written; of 5 both do."""
    counts, settings = [7, 7, 6, 5, 7], {"batch_size": 7, **SETTINGS}

    def still():
        module = net()
        module.norm.eval()  # its statistics are each rank's own
        return module

    def body(group):
        module = still()
        steps = stepper(module, group, torch_compile=True, **settings)
        for number, count in enumerate(counts):
            steps.step(batch(count, group.rank, 2), 0.1, number)
        return module.state_dict(), float(steps.clock.take_seconds()), steps._compiled._ready

    plain = still()
    steps = stepper(plain, **settings)
    for number, count in enumerate(counts):
        steps.step(batch(count), 0.1, number)
    (first, waited, programs), (second, _, others) = in_ranks(2, body)
    assert same(first, second)
    assert close(first, plain.state_dict())
    assert (programs, others) == ({4}, {3})
    assert waited > 0  # torch calls the clock's hook here too


def test_a_run_that_compiles_is_left_while_it_does_and_ends_bitwise(tmp_path, index, monkeypatch):
    """Asked to stop while it compiles, begun again and killed in the middle of an epoch, and begun once more."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "resnet18", Architecture(builder=Net, head="fc"))
    settings = {"architecture": "resnet18", "head_epochs": 1, "epochs": 2, "torch_compile": True}
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
