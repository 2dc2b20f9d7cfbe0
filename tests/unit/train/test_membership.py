"""Who goes on when hosts are lost: real stores, one thread per host, clocks that the tests move."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from containers.train import hosts, membership
from containers.train.errors import DataError, Interrupted, WorkerFailed
from containers.train.failure import Category, Failure
from containers.train.hosts import PeerEnded
from containers.train.job import Cluster
from containers.train.membership import AlreadyDone, ElasticBoard, HostsLost, Remaining
from tests.support.fast_clock import FastClock

NAMES = ("algo-1", "algo-2", "algo-3", "algo-4")


class Clock(FastClock):
    """Twenty times as fast as the wall's while somebody pauses."""

    def __init__(self) -> None:
        super().__init__(lambda seconds: seconds / 20)


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


_made: list[ElasticBoard] = []


@pytest.fixture(autouse=True)
def _beats_as_fast_as_the_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And none after the test: a store that goes while a thread asks it ends the process."""
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.05)
    yield
    lost(*_made)
    _made.clear()


def board(store: TCPStore, rank: int, size: int = 3, least: int = 2, clock: Clock | None = None) -> ElasticBoard:
    client = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
    clock = clock or Clock()
    cluster = Cluster(hosts=NAMES[:size], current_host=NAMES[rank])
    made = ElasticBoard(client, rank, cluster, least, clock=clock, pause=clock.pause)
    client.check(["any"])  # what it set is there: `set` waits for no answer
    _made.append(made)
    return made


def lost(*boards: ElasticBoard) -> None:
    """Their hosts, from now on: they beat no more, and say nothing."""
    for each in boards:
        each.close()
        each._beating.join(60)
        assert not each._beating.is_alive()


def closed_connection(rank: int) -> Failure:
    return Failure.of(RuntimeError("Connection closed by peer [10.0.0.9]"), rank=rank, host=NAMES[rank])


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except (HostsLost, PeerEnded, AlreadyDone) as raised:
        return raised


def together(*calls: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(outcome, call) for call in calls]]


def remaining(outcome: object) -> Remaining:
    assert isinstance(outcome, HostsLost), outcome
    return outcome.remaining


def test_hosts_whose_workers_lost_a_peer_go_on_without_it(store: TCPStore) -> None:
    first, second, third = (board(store, rank) for rank in range(3))
    lost(third)
    seen = together(first.peer_restarts, second.peer_restarts)
    assert [remaining(each) for each in seen] == [Remaining(hosts=NAMES[:2], lost=(NAMES[2],))] * 2


def test_hosts_lost_together_are_counted_together(store: TCPStore) -> None:
    boards = [board(store, rank, size=4) for rank in range(4)]
    lost(boards[1], boards[3])
    seen = together(boards[0].peer_restarts, boards[2].peer_restarts)
    assert [remaining(each) for each in seen] == [Remaining(hosts=("algo-1", "algo-3"), lost=("algo-2", "algo-4"))] * 2


def test_a_host_that_falls_silent_during_work_is_left_behind(store: TCPStore) -> None:
    """As behind a partition: no connection closes, so no worker ends."""
    clock = Clock()
    first, second, third = board(store, 0, clock=clock), board(store, 1), board(store, 2)
    assert first.news() is None
    lost(third)
    seen: object = None
    while seen is None and clock() < 600:
        clock.pause(1.0)
        seen = outcome(first.news)
    assert remaining(seen).lost == (NAMES[2],)
    assert hosts.LOST_SECONDS <= clock() < hosts.LOST_SECONDS + 30
    assert remaining(outcome(second.news)) == remaining(seen)


def test_a_host_that_was_given_up_ends_itself_when_it_comes_back(store: TCPStore) -> None:
    clock = Clock()
    first, third = board(store, 0, size=3, least=1), board(store, 2, clock=clock)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(first, "_silent", lambda rank, seconds=0.0: True)
        assert remaining(outcome(first.peer_restarts)).hosts == NAMES[:1]
    seen = outcome(third.news)
    assert isinstance(seen, PeerEnded)
    assert seen.failure.headline == (
        "PeerLost: host algo-1 heard nothing of this host and the others go on without it [host algo-3]"
    )
    assert third.finish(seen.failure) is seen.failure
    assert clock() == 0, "it waits for nobody"


def test_below_min_hosts_the_job_ends_with_the_lost_hosts_name_everywhere(store: TCPStore) -> None:
    """The others end as soon as they hear it: the first host's store is there for seconds only."""
    clocks = [Clock() for _ in range(3)]
    first, second, third = (board(store, rank, least=3, clock=clocks[rank]) for rank in range(3))
    lost(third)

    def end(one: ElasticBoard, rank: int) -> Failure | None:
        seen = outcome(one.peer_restarts)
        heard = clocks[rank]()
        ended = one.finish(seen.failure if isinstance(seen, PeerEnded) else closed_connection(rank))
        assert clocks[rank]() - heard <= hosts.STAY_SECONDS + 1
        return ended

    seen = together(lambda: end(first, 0), lambda: end(second, 1))
    assert [(each.kind, each.exit_code) for each in seen] == [("PeerLost", 75)] * 2
    for each in seen:
        assert each.message.startswith("host algo-3 is lost, 2 of 3 hosts are left and min_hosts is 3")


def test_a_peers_own_error_ends_the_job_though_a_host_was_lost_too(store: TCPStore) -> None:
    clock = Clock()
    first, second, third = board(store, 0, clock=clock), board(store, 1), board(store, 2)
    lost(third)
    while not first._silent(2):
        clock.pause(1.0)
    cause = Failure.of(DataError("photo x.jpg cannot be used"), rank=1, host=NAMES[1])

    def end() -> Failure | None:
        store.wait(["end/1"])
        assert outcome(first.peer_restarts) is False
        return first.finish(closed_connection(0))

    seen = together(end, lambda: second.finish(cause))
    assert [each.kind for each in seen] == ["DataError"] * 2
    assert not store.check(["next"])


def test_a_worker_that_is_replaced_is_no_lost_host(store: TCPStore) -> None:
    first, second, third = (board(store, rank) for rank in range(3))
    third.say_restarting(aborted=False)
    assert together(first.peer_restarts, second.peer_restarts) == [True, True]


def test_only_the_first_host_gives_up_others(store: TCPStore) -> None:
    """Its decision may be a minute away; a host that never hears one ends as it would without it."""
    clock = Clock()
    _, second, third = board(store, 0), board(store, 1, clock=clock), board(store, 2)
    lost(third)
    assert outcome(second.peer_restarts) is False
    assert clock() > membership.DECISION_SECONDS


def test_without_the_first_host_nobody_goes_on(store: TCPStore) -> None:
    first, second, third = (board(store, rank) for rank in range(3))
    lost(first)
    for rank, one in ((1, second), (2, third)):
        assert outcome(one.peer_restarts) is False
        seen = one.finish(closed_connection(rank))
        assert (seen.kind, seen.exit_code) == ("PeerLost", 75)
        assert "algo-1" in seen.message


def test_a_host_lost_after_the_last_step_is_not_missed(store: TCPStore) -> None:
    """Rank 0 is on the first host, and is done: everything is written."""
    first, second, third = (board(store, rank) for rank in range(3))
    lost(third)

    def late() -> Failure | None:
        with pytest.raises(AlreadyDone):  # its worker heard of the loss in the last barrier
            second.peer_restarts()
        return second.finish(None)

    assert together(lambda: first.finish(None), late) == [None, None]


def test_too_many_lost_after_the_last_step_end_the_job(store: TCPStore) -> None:
    first, _, third = (board(store, rank, least=3) for rank in range(3))
    lost(third)
    seen = first.finish(None)
    assert (seen.kind, "algo-3" in seen.message) == ("PeerLost", True)


def test_an_aborted_worker_is_its_hosts_own_where_nobody_was_lost(store: TCPStore) -> None:
    """Native code aborts after a lost peer, and of itself."""
    clock = Clock()
    _, second, _ = board(store, 0), board(store, 1, clock=clock), board(store, 2)
    second.heed_losses()
    assert membership.ABORTED_SECONDS < clock() < hosts.CAUSE_SECONDS, "the others wait longer for its account"
    own = Failure.of(WorkerFailed("was killed (SIGABRT)"), rank=1, host=NAMES[1])
    assert own.category is Category.OWN
    assert second.finish(own) is own


def test_an_aborted_worker_is_forgotten_where_a_host_was_lost(store: TCPStore) -> None:
    first, second, third = (board(store, rank) for rank in range(3))
    lost(third)
    seen = together(first.peer_restarts, second.heed_losses)
    assert [remaining(each).hosts for each in seen] == [NAMES[:2]] * 2


def stopped(rank: int) -> Failure:
    return Failure.of(Interrupted("asked to stop; the checkpoint is written"), rank=rank, host=NAMES[rank])


def test_hosts_part_with_one_that_was_asked_to_stop(store: TCPStore) -> None:
    first, second, third = (board(store, rank) for rank in range(3))
    seen = together(first.part, second.part, lambda: third.finish(stopped(2)))
    assert [remaining(each) for each in seen[:2]] == [Remaining(hosts=NAMES[:2], lost=(NAMES[2],))] * 2
    assert seen[2].is_stop


@pytest.mark.parametrize("asked", [0, 2])
def test_a_stop_ends_the_job_where_it_was_the_first_hosts_or_too_few_are_left(store: TCPStore, asked: int) -> None:
    boards = [board(store, rank, least=2 if asked == 0 else 3) for rank in range(3)]

    def end(rank: int) -> Failure | None:
        if rank != asked:
            boards[rank].part()
        return boards[rank].finish(stopped(rank))

    seen = together(*(lambda rank=rank: end(rank) for rank in range(3)))
    assert [each.is_stop for each in seen] == [True] * 3
    assert not store.check(["next"])
