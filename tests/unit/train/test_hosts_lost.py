"""Hosts that say nothing more: who is named, and by whom. Real stores, clocks that the tests move."""

import pytest
from torch.distributed import TCPStore

from containers.train import hosts
from containers.train.errors import Interrupted
from containers.train.hosts import Board
from containers.train.job import Cluster
from tests.support.fast_clock import FastClock
from tests.unit.train.boards import NAMES, Clock, a_failure, aborted, board, silence, together


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


def test_nobody_restarts_from_an_abort_after_which_a_host_is_silent(store: TCPStore) -> None:
    first, second = board(store, 0, clock=Clock()), board(store, 1)
    silence(second)
    assert not first.say_restarting(aborted=True)
    assert not second._store.check(["end/0"])
