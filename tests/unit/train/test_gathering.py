"""What is said of a group of hosts that does not form: real stores, and whole jobs of three hosts."""

import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

from containers.core.errors import ConfigError
from containers.train import gathering
from containers.train.job import Cluster
from tests.unit.train import jobs
from tests.unit.train.jobs import Job

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
THREE = Cluster(hosts=NAMES, current_host=NAMES[1])
GONE = "host 127.0.0.1, which keeps the hosts together, is gone"


def stores() -> tuple[TCPStore, TCPStore]:
    """The first host's, and another's connection to it."""
    first = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    return first, TCPStore("127.0.0.1", first.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))


def arrived(store: TCPStore) -> None:
    """What was set over this connection is there: `set` waits for no answer, but a connection's words are taken in turn."""
    store.check(["any"])


def joining(store: TCPStore, *, closed: bool = False) -> SimpleNamespace:
    """Torch's handler, as far as it matters: over this connection, and with half a second for a group to form."""
    patience = SimpleNamespace(timeout=SimpleNamespace(join=timedelta(seconds=0.5)))
    return SimpleNamespace(_store=store, is_closed=lambda: closed, settings=patience)


def test_who_did_not_come_is_named_and_nobody_else() -> None:
    first, second = stores()
    handler = SimpleNamespace(_store=second)
    gathering.came(SimpleNamespace(_store=first), "job", NAMES[0])
    arrived(first)
    gathering.came(handler, "another job", NAMES[2])
    assert gathering.why_late(handler, "job", THREE).startswith(
        "host 127.0.0.2, 127.0.0.3 did not come while the others gathered"
    )
    for host in NAMES[1:]:
        gathering.came(handler, "job", host)
    assert gathering.why_late(handler, "job", THREE).startswith("a host that had come was lost again")


def test_each_host_compares_its_list_with_the_first_hosts() -> None:
    first, second = stores()
    handler = joining(second)
    gathering.check_hosts(joining(first), "job", THREE.model_copy(update={"current_host": NAMES[0]}))
    arrived(first)
    gathering.check_hosts(handler, "job", THREE)
    differ = r"the lists of hosts \(--hosts\) of host 127\.0\.0\.2 differ from those of host 127\.0\.0\.1"
    with pytest.raises(ConfigError, match=differ):
        gathering.check_hosts(handler, "job", THREE.model_copy(update={"hosts": NAMES[:2]}))


@pytest.mark.parametrize(("closed", "ends"), [(True, RendezvousClosedError), (False, RendezvousTimeoutError)])
def test_a_first_host_that_does_not_say_whom_it_counts_is_waited_for_as_for_a_group(
    closed: bool, ends: type[Exception]
) -> None:
    first, second = stores()
    began = time.monotonic()
    with pytest.raises(ends):
        gathering.check_hosts(joining(second, closed=closed), "job", THREE)
    assert (time.monotonic() - began < 0.5) is closed
    del first  # who keeps the store


def test_each_group_of_a_job_gathers_under_a_name_of_its_own() -> None:
    first, _ = stores()
    handler = SimpleNamespace(_store=first)
    gathering.came(handler, "dogs.1", NAMES[0])
    gathering.came(handler, "dogs", NAMES[1])
    assert gathering.missing(handler, "dogs.1", NAMES) == [NAMES[1], NAMES[2]]


def test_who_came_and_does_not_take_part_is_named() -> None:
    first, second = stores()
    handler = SimpleNamespace(_store=second)
    for host in NAMES[:2]:
        gathering.came(handler, "job", host)
    assert gathering.why_apart(handler, "job", None, THREE).startswith("host 127.0.0.3 did not come")
    gathering.takes_part(first, NAMES[0])
    gathering.takes_part(first, NAMES[2])
    arrived(first)
    assert gathering.why_apart(handler, "job", second, THREE).startswith("host 127.0.0.2 came and was lost again")
    gathering.takes_part(second, NAMES[1])
    assert gathering.why_apart(handler, "job", second, THREE).startswith(
        "the hosts' group came apart though all of them were there"
    )


def test_a_store_that_is_gone_is_the_first_hosts() -> None:
    first, second = stores()
    handler = SimpleNamespace(_store=second)
    gathering.came(handler, "job", NAMES[1])
    del first
    assert gathering.why_late(handler, "job", THREE).startswith(GONE)
    assert gathering.why_apart(handler, "job", second, THREE).startswith(GONE)


def start(stack: ExitStack, folder: Path, data: Path, programs: tuple[str, ...]) -> list[Job]:
    """The first hosts of three, as many as there are programs for their launchers; the one that leads comes last."""
    common, started = ("--hosts", ",".join(NAMES), "--rendezvous-port", jobs.free_port(), "--current-host"), {}
    for name, program in reversed(list(zip(NAMES, programs, strict=False))):
        path = jobs.in_the_launcher(folder / f"site-{name}", program)
        started[name] = stack.enter_context(Job.with_flags(folder / name, data, *common, name, PYTHONPATH=path))
        if name != NAMES[0]:
            started[name].wait_for("waiting for the first host")
    return [started[name] for name in NAMES[: len(programs)]]


@pytest.mark.slow
def test_a_host_that_never_comes_is_named_by_all_that_did(tmp_path: Path, data: Path) -> None:
    """The first host gives up first, and the store goes with it: the second must not take it for the one that is missing."""
    impatient = "from containers.train import rendezvous\nrendezvous.JOIN_SECONDS = 45"
    with ExitStack() as stack:
        first, second = start(stack, tmp_path, data, (impatient, "pass"))
        assert (first.wait(), second.wait()) == (75, 75), first.out + second.out
    for job in (first, second):
        assert job.failure is not None
        assert job.failure.startswith("PeerLost: host 127.0.0.3 did not come while the others gathered"), job.failure


@pytest.mark.slow
def test_a_host_that_is_lost_while_the_group_forms_is_named_by_the_others(tmp_path: Path, data: Path) -> None:
    """Killed when all have met and before ranks are shared out: both others wait at the first one's store, which lives."""
    quick = "from containers.train import rendezvous\nrendezvous.ANSWER_SECONDS = 40"
    killed = """
import os, signal
from containers.train.agent import Agent
Agent._assign_worker_ranks = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
    with ExitStack() as stack:
        first, second, third = start(stack, tmp_path, data, (quick, quick, killed))
        assert (first.wait(), second.wait(), third.wait()) == (75, 75, 1), first.out + second.out + third.out
    for job in (first, second):
        assert job.failure is not None
        assert job.failure.startswith("PeerLost: host 127.0.0.3 came and was lost again while the group formed"), job.failure


@pytest.mark.slow
def test_a_host_that_is_stopped_while_others_gather_says_so_to_them(tmp_path: Path, data: Path) -> None:
    with ExitStack() as stack:
        first, second = start(stack, tmp_path, data, ("pass", "pass"))
        first.wait_for("starting workers")
        second.wait_for("starting workers").stop()
        assert (second.wait(), first.wait()) == (75, 75), first.out + second.out
    assert second.failure is None
    assert first.failure is not None
    assert first.failure.startswith("Interrupted: stopped while waiting for the other hosts; nothing was lost [host 127.0.0.2]")
