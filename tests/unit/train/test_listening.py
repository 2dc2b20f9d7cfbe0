"""Two real launchers on loopback, one of which still checks its photos when the other ends the job."""

from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.stopwatch import Stopwatch
from tests.unit.train import jobs
from tests.unit.train.jobs import Job

FIRST, OTHER = "127.0.0.1", "127.0.0.2"

_SLOW_PHOTOS = """
import sys
if "containers.train.preflight" in sys.orig_argv:
    import time
    from containers.train import photos

    inspect_all = photos.inspect_all

    def slow(*arguments):
        print("checking takes long", flush=True)
        time.sleep({seconds})
        return inspect_all(*arguments)

    photos.inspect_all = slow
"""
_SLOW_LAUNCH = """
import sys
if "containers.train.launch" in sys.orig_argv:
    import time
    print("launch takes long", flush=True)
    time.sleep({seconds})
"""


class Pair:
    """Two hosts of one job, to be started one by one."""

    def __init__(self, stack: ExitStack, folder: Path, data: Path) -> None:
        self._stack, self._folder, self._data = stack, folder, data
        self._common = ("--hosts", f"{OTHER},{FIRST}", "--rendezvous-port", jobs.free_port(), "--current-host")

    def start(self, host: str, program: str = "", seconds: float = 600) -> Job:
        folder = self._folder / host
        environ = {"PYTHONPATH": jobs.customized(self._folder / f"custom-{host}", program.format(seconds=seconds))}
        return self._stack.enter_context(Job.with_flags(folder, self._data, *self._common, host, **environ))


@pytest.fixture
def pair(tmp_path: Path, data: Path):
    with ExitStack() as stack:
        yield Pair(stack, tmp_path, data)


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["it gathers", "it checks its own"])
def test_a_first_host_that_is_stopped_ends_one_that_still_checks_photos(pair: Pair, doing: str) -> None:
    other = pair.start(OTHER, _SLOW_PHOTOS).wait_for("checking takes long")
    if doing == "it gathers":
        first = pair.start(FIRST).wait_for("starting workers")
        other.wait_for("the first host gathers already")
    else:
        first = pair.start(FIRST, _SLOW_PHOTOS).wait_for("checking takes long")
    watch = Stopwatch()
    assert (first.stop().wait(), other.wait()) == (75, 75), first.out + other.out
    assert watch.seconds < 40, "and not half an hour, nor what the first host has to tell it"
    assert first.failure is None
    assert other.failure is not None
    assert other.failure.startswith(
        "Interrupted: stopped while waiting" if doing == "it gathers" else "Interrupted: asked to stop before it had gathered"
    )
    assert f"[host {FIRST}]" in other.failure
    assert not list((other.folder).glob("kennel-*")), "the scratch folder is deleted"


@pytest.mark.slow
def test_a_first_host_that_is_gone_ends_one_that_still_checks_photos(pair: Pair) -> None:
    other = pair.start(OTHER, _SLOW_PHOTOS).wait_for("checking takes long")
    first = pair.start(FIRST).wait_for("starting workers")
    other.wait_for("the first host gathers already")
    for process in [*psutil.Process(first.process.pid).children(recursive=True), first.process]:
        process.kill()
    watch = Stopwatch()
    assert other.wait() == 75, other.out
    assert watch.seconds < 40
    assert other.failure is not None
    assert other.failure.startswith(f"PeerLost: host {FIRST}, which keeps the hosts together, is gone")


@pytest.mark.slow
def test_a_first_host_that_is_stopped_while_the_other_loads_torch_is_waited_for_no_more(pair: Pair) -> None:
    """Nobody listens then, and the first host does not wait for one that has not come."""
    first = pair.start(FIRST).wait_for("starting workers")
    other = pair.start(OTHER, _SLOW_PHOTOS + _SLOW_LAUNCH, 10).wait_for("the first host gathers already")
    other.wait_for("launch takes long")
    watch = Stopwatch()
    assert (first.stop().wait(), other.wait()) == (75, 75), first.out + other.out
    assert watch.seconds < 60
    assert other.failure is not None
    assert other.failure.startswith(f"PeerLost: host {FIRST} did not answer on port")
