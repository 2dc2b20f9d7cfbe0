"""How hosts learn of each other's ends: real stores, one thread per host, clocks that the tests move."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from containers.core.errors import ConfigError
from containers.train import failure, hosts, launch
from containers.train.errors import DataError, Interrupted, Uncommitted
from containers.train.failure import Failure
from containers.train.hosts import Board
from containers.train.job import Cluster
from tests.support.fast_clock import FastClock

NAMES = ("algo-1", "algo-2", "algo-3")


class Clock(FastClock):
    """A pause takes two milliseconds, however long it is: waiting 45 s takes a moment."""

    def __init__(self) -> None:
        super().__init__(lambda _: 0.002)


_made: list[Board] = []


@pytest.fixture
def store() -> Iterator[TCPStore]:
    """One that goes while a thread asks it would end the process."""
    yield TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    for each in _made:
        silence(each)
    _made.clear()


def silence(each: Board) -> None:
    """It beats no more; its last beat can be seen."""
    each.close()
    each._beating.join(60)
    assert not each._beating.is_alive()


def board(store: TCPStore, rank: int, size: int = 2, clock: FastClock | None = None) -> Board:
    """Without a `clock` by the wall's: what comes is there in a moment, and a busy machine has seconds until it is missed."""
    client = TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
    cluster = Cluster(hosts=NAMES[:size], current_host=NAMES[rank])
    made = Board(client, rank, cluster, **({"clock": clock, "pause": clock.pause} if clock else {}))
    client.check(["any"])  # what it set is there: `set` waits for no answer
    _made.append(made)
    return made


def a_failure(error: Exception, rank: int) -> Failure:
    return Failure.of(error, rank=rank, host=NAMES[rank])


def together(*calls: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(call) for call in calls]]


def test_all_done(store: TCPStore) -> None:
    boards = [board(store, rank, 3) for rank in range(3)]
    assert together(*(lambda each=each: each.finish(None) for each in boards)) == [None] * 3


def test_nobody_leaves_before_the_last_is_done(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.005)  # as fast as the clock
    first, second = board(store, 0, clock=Clock()), board(store, 1, clock=Clock())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.finish, None)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)  # tens of seconds by its own clock, and the other beats
        assert second.finish(None) is None
        assert waiting.result(60) is None


def test_a_peers_own_error_is_everyones_cause(store: TCPStore) -> None:
    """Rank 0 sees only a closed connection; the cause is a user error on the other host, and so is its exit code."""
    lost = a_failure(RuntimeError("Connection closed by peer [10.0.0.2]"), 0)
    cause = a_failure(DataError("photo x.jpg cannot be used"), 1)
    first, second = board(store, 0), board(store, 1)
    seen = together(lambda: first.finish(lost), lambda: second.finish(cause))
    assert [(each.headline, each.exit_code) for each in seen] == [
        ("DataError: photo x.jpg cannot be used [rank 1 host algo-2]", 2)
    ] * 2


def test_a_host_that_is_done_learns_that_another_failed(store: TCPStore) -> None:
    first, second = board(store, 0), board(store, 1)
    cause = a_failure(ValueError("no"), 1)
    seen = together(lambda: first.finish(None), lambda: second.finish(cause))
    assert [each.kind for each in seen] == ["ValueError"] * 2


@pytest.mark.parametrize("ours", [None, RuntimeError("Connection reset by peer")])
def test_a_silent_host_is_named(store: TCPStore, monkeypatch: pytest.MonkeyPatch, ours: Exception | None) -> None:
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 3600.0)  # one beat, then silence
    first = board(store, 0, clock=Clock())
    board(store, 1)
    seen = first.finish(None if ours is None else a_failure(ours, 0))
    assert (seen.kind, seen.exit_code) == ("PeerLost", 75)
    if ours is None:
        assert "algo-2 ended without a word" in seen.message


def test_the_one_host_that_is_lost_is_named_by_all_the_others(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them only lost a peer, and each other's account explains nothing."""
    silence(board(store, 2, 3))
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.005)  # far more often than by a clock twenty times as fast as the wall's
    first, second = (board(store, rank, 3, FastClock(lambda seconds: seconds / 20)) for rank in (0, 1))
    seen = together(
        lambda: first.finish(a_failure(RuntimeError("Connection closed by peer [10.0.0.3]"), 0)),
        lambda: second.finish(a_failure(RuntimeError("Connection reset by peer"), 1)),
    )
    assert [(each.kind, each.exit_code) for each in seen] == [("PeerLost", 75)] * 2
    for each in seen:
        assert each.message.startswith("host algo-3 ended without a word")
        assert "algo-1" not in each.message
        assert "algo-2" not in each.message


def test_what_the_third_host_says_late_is_waited_for(store: TCPStore) -> None:
    """The second one's account is there first, and explains nothing."""
    first, second, third = (board(store, rank, 3) for rank in range(3))

    def late() -> Failure | None:
        store.wait(["end/0", "end/1"])
        time.sleep(0.05)
        return third.finish(a_failure(ValueError("no"), 2))

    echo = RuntimeError("Connection closed by peer [10.0.0.3]")
    seen = together(lambda: first.finish(a_failure(echo, 0)), lambda: second.finish(a_failure(echo, 1)), late)
    assert [each.kind for each in seen] == ["ValueError"] * 3


def aborted(rank: int) -> Failure:
    return failure.of_process(-signal.SIGABRT, Path("/nowhere"), rank=rank, host=NAMES[rank])


def test_where_nccl_aborts_for_a_lost_host_that_host_is_named(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank is aborted, another hears of it from gloo: neither is the cause."""
    silence(board(store, 2, 3))
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.005)
    first, second = (board(store, rank, 3, FastClock(lambda seconds: seconds / 20)) for rank in (0, 1))
    seen = together(
        lambda: first.finish(aborted(0)),
        lambda: second.finish(a_failure(RuntimeError("Connection closed by peer [10.0.0.3]"), 1)),
    )
    assert [(each.kind, each.exit_code) for each in seen] == [("PeerLost", 75)] * 2
    for each in seen:
        assert each.message.startswith("host algo-3 ended without a word")


def test_an_abort_is_the_cause_where_every_host_tells_of_its_end(store: TCPStore) -> None:
    first, second = board(store, 0), board(store, 1)
    seen = together(
        lambda: first.finish(aborted(0)), lambda: second.finish(a_failure(RuntimeError("Connection reset by peer"), 1))
    )
    assert [(each.kind, each.rank, each.exit_code) for each in seen] == [("WorkerFailed", 0, 1)] * 2


def test_an_abort_is_the_cause_where_a_host_lives_and_ends_late(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.005)
    board(store, 1)
    seen = board(store, 0, clock=FastClock(lambda seconds: seconds / 20)).finish(aborted(0))
    assert (seen.kind, seen.exit_code) == ("WorkerFailed", 1)


@pytest.mark.parametrize("kind", [Interrupted, Uncommitted])
def test_an_interruption_waits_for_nobody(store: TCPStore, kind: type[Interrupted]) -> None:
    clock = Clock()
    second = board(store, 1, clock=clock)
    seen = second.finish(a_failure(kind("stopped"), 1))
    assert seen.kind == kind.__name__
    assert clock() == 0


class LostStore:
    """Accepts the greeting, then is gone, as when the first host's process was killed."""

    def __init__(self) -> None:
        self.greeted = False

    def clone(self) -> "LostStore":
        return self

    def add(self, *_: object) -> None:
        raise RuntimeError("Connection reset by peer")

    def check(self, *_: object) -> None:
        raise RuntimeError("Connection reset by peer")

    def set(self, *_: object) -> None:
        if self.greeted:
            raise RuntimeError("Broken pipe")
        self.greeted = True


@pytest.mark.parametrize(
    ("ours", "kind", "words"),
    [
        (None, "PeerLost", "host algo-1 ended without a word"),
        (RuntimeError("Connection closed by peer"), "PeerLost", "host algo-1 ended without a word"),
        (ValueError("our own"), "ValueError", "our own"),
        (Interrupted("stopped, committed"), "Interrupted", "stopped, committed"),
    ],
)
def test_a_lost_store_is_a_lost_first_host(ours: Exception | None, kind: str, words: str) -> None:
    second = Board(LostStore(), 1, Cluster(hosts=NAMES[:2], current_host=NAMES[1]))
    seen = second.finish(None if ours is None else a_failure(ours, 1))
    assert (seen.kind, words in seen.message) == (kind, True)


class JustLostStore(LostStore):
    """What is sent to it goes into the network's buffers."""

    def set(self, *_: object) -> None:
        pass


def test_an_abort_that_nobody_heard_of_is_explained_by_the_lost_first_host() -> None:
    seen = Board(JustLostStore(), 1, Cluster(hosts=NAMES[:2], current_host=NAMES[1])).finish(aborted(1))
    assert (seen.kind, seen.exit_code) == ("PeerLost", 75)
    assert "host algo-1 ended without a word" in seen.message


def test_a_peer_that_falls_silent_during_work_is_given_up(store: TCPStore) -> None:
    clock = Clock()
    first = board(store, 0, clock=clock)
    silence(board(store, 1))
    seen = None
    while seen is None and clock() < 600:
        clock.pause(1.0)
        seen = first.news()
    assert 60 <= clock() < 70
    assert seen.headline == "PeerLost: host algo-2 has been silent for 60 s; start the job again, it resumes [host algo-1]"


@pytest.mark.parametrize(
    ("error", "acts"),
    [(ValueError("no"), True), (Interrupted("stopped"), False), (Uncommitted("stopped"), False), (None, False)],
)
def test_a_peers_failure_ends_work_that_does_not_notice(store: TCPStore, error: Exception | None, acts: bool) -> None:
    clock = Clock()
    first, second = board(store, 0, clock=clock), board(store, 1, clock=clock)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(second.finish, None if error is None else a_failure(error, 1))
        store.wait(["end/1"])
        seen = None
        for _ in range(40):
            clock.pause(1.0)
            seen = seen or first.news()
        first.finish(None)
        ended.result(60)
    assert (seen is not None) is acts


def test_restarts_are_agreed(store: TCPStore) -> None:
    first, second = board(store, 0), board(store, 1)
    first.say_restarting(aborted=False)
    assert second.peer_restarts()


def test_an_abort_is_restarted_from_while_every_host_beats(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "BEAT_SECONDS", 0.005)
    first, second = board(store, 0), board(store, 1)
    assert first.say_restarting(aborted=True)
    assert second.peer_restarts()


def test_nobody_restarts_from_an_abort_after_which_a_host_is_silent(store: TCPStore) -> None:
    first, second = board(store, 0, clock=Clock()), board(store, 1)
    silence(second)
    assert not first.say_restarting(aborted=True)
    assert not second._store.check(["end/0"])


def test_no_restart_after_a_peers_own_error(store: TCPStore) -> None:
    first, second = board(store, 0, clock=Clock()), board(store, 1)
    first.finish(a_failure(ValueError("no"), 0))
    assert not second.peer_restarts()


def test_hosts_must_agree_on_photos_and_hyperparameters(store: TCPStore) -> None:
    first, second = board(store, 0), board(store, 1)
    first.agree({"photos": "abc", "hyperparameters": "{}"})
    second.agree({"photos": "abc", "hyperparameters": "{}"})
    with pytest.raises(ConfigError, match="the photos of host algo-2 differ from those of host algo-1"):
        second.agree({"photos": "other"})


def test_a_host_without_a_gpu_among_hosts_with_gpus_is_refused(store: TCPStore) -> None:
    """NCCL's first collective would wait for it."""
    first, second = board(store, 0), board(store, 1)
    first.agree({launch.KINDS_OF_DEVICE: "cuda"})
    with pytest.raises(ConfigError, match=r"GPUs on every host.*of host algo-2 differ from those of host algo-1"):
        second.agree({launch.KINDS_OF_DEVICE: "cpu"})


def test_the_earliest_of_equal_causes_wins(store: TCPStore) -> None:
    early = a_failure(ValueError("first"), 1).model_copy(update={"moment": 1.0})
    late = a_failure(ValueError("second"), 0).model_copy(update={"moment": 2.0})
    assert failure.root_cause([late, early]) is early
