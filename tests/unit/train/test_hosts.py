"""How hosts learn of each other's ends: real stores, one thread per host, clocks that the tests move."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from containers.core.errors import ConfigError
from containers.train import failure, hosts, launch
from containers.train.errors import DataError, Interrupted, Uncommitted
from containers.train.failure import Failure
from tests.support.fast_clock import FastClock
from tests.unit.train.boards import Clock, a_failure, aborted, board, together


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
