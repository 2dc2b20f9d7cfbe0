"""Asked to stop: heard by one process, and agreed between ranks."""

import contextlib
import os
import signal
import threading

import pytest

from containers.core.errors import ConfigError
from containers.train.agreement import Agreement, Signal, StopRequest, StopRequested
from containers.train.distributed import Group
from tests.support.training import in_ranks


def agreement(group, path, every=1e9):
    return Agreement(group, StopRequest(), path, every)


@pytest.mark.parametrize("who", [0, 2])
def test_what_one_rank_wants_all_hear_at_the_same_poll(tmp_path, who):
    def body(group):
        mine = agreement(group, tmp_path / f"stop{group.rank}")
        heard = []
        for number in range(6):
            if number == 3 and group.rank == who:
                (tmp_path / f"stop{who}").touch()
            heard.append(mine.poll())
        return heard

    expected = [Signal.GO] * 4 + [Signal.STOP] * 2
    assert in_ranks(3, body) == [expected] * 3


def test_the_more_urgent_wins_and_a_due_checkpoint_is_announced_once(tmp_path):
    def body(group):
        mine = agreement(group, tmp_path / "never", every=1e-9)
        heard = [mine.poll(finite=not (number == 4 and group.rank == 1)) for number in range(6)]
        mine.saved()
        return heard

    # rank 0 announces at the first poll, and not again before something was saved
    expected = [Signal.GO, Signal.CHECKPOINT, Signal.GO, Signal.GO, Signal.GO, Signal.NON_FINITE]
    assert in_ranks(2, body) == [expected] * 2


def test_a_signal_is_remembered_also_when_it_came_while_blocked(tmp_path):
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # to this thread: the runner's others do not block it
        assert not request.asked
        request.listen()
        assert request.asked
        asked = Agreement(Group.alone(), request, tmp_path / "never", 1e9)
        assert asked.poll() is Signal.STOP
        with pytest.raises(StopRequested):
            asked.check()
        with pytest.raises(StopRequested), request.at_once():
            raise AssertionError("not reached")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def listening():
    """A request that hears real signals, until the test has ended."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    request.listen()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_work_that_can_be_abandoned_is_abandoned_at_once(listening):
    with pytest.raises(StopRequested), listening.at_once():
        signal.raise_signal(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # afterwards it is remembered again, and nothing more
    listening.asked = False

    def twice():
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # what the first led to is not left in its middle
        reached.append(True)

    reached = []
    with pytest.raises(StopRequested), listening.at_once():
        twice()
    assert reached


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("made_of_it", [ConfigError("cannot be read"), None], ids=["an error", "nothing"])
def test_a_request_that_native_code_swallows_still_ends_the_work(listening, number, made_of_it):
    def native():
        with contextlib.suppress(StopRequested):
            signal.raise_signal(number)
        if made_of_it is not None:
            raise made_of_it

    with pytest.raises(StopRequested), listening.at_once():
        native()
    listening.asked = False
    with listening.at_once():
        pass  # and no work after it


def test_an_error_that_no_request_led_to_stays_itself(listening):
    with pytest.raises(ConfigError), listening.at_once():
        raise ConfigError("cannot be read")
