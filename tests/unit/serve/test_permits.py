"""Fairness and deadlines of the permits to decode; what a caller sees of them is in tests/contract/test_serving_turns.py."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from containers.serve.permits import Permits
from tests.support.server import until

LATER = 3600.0


def soon() -> float:
    return time.monotonic() + LATER


def test_who_gives_one_back_and_wants_another_queues_behind_who_waits():
    permits, order = Permits(1), []

    def guest() -> None:
        with permits.one(soon()):
            order.append("guest")

    with ThreadPoolExecutor(1) as pool:
        with permits.one(soon()):
            waiting = pool.submit(guest)
            until(lambda: permits._queue, "the guest waits")
        with permits.one(soon()):
            order.append("host")
        waiting.result()
    assert order == ["guest", "host"]


def test_a_permit_that_does_not_come_in_time_is_a_timeout_and_leaves_no_trace():
    permits = Permits(2)
    with permits.one(soon()), permits.one(soon()):
        for deadline in (time.monotonic() + 0.05, time.monotonic() - 1):
            with pytest.raises(TimeoutError), permits.one(deadline):
                raise AssertionError("there were two")
    with permits.one(0.0), permits.one(0.0):  # free ones are had whatever the time
        pass


def test_a_failure_inside_gives_the_permit_back():
    permits = Permits(1)
    for _ in range(2):
        with pytest.raises(KeyError), permits.one(soon()):
            raise KeyError


def test_never_more_than_so_many_and_none_is_lost_however_they_time_out():
    permits, lock = Permits(3), threading.Lock()
    now, most, timeouts = 0, 0, 0

    def guest(number: int) -> None:
        nonlocal now, most, timeouts
        for turn in range(50):
            try:
                with permits.one(time.monotonic() + 0.0005 * ((number + turn) % 5)):
                    with lock:
                        now += 1
                        most = max(most, now)
                    time.sleep(0.0005)
                    with lock:
                        now -= 1
            except TimeoutError:
                with lock:
                    timeouts += 1

    with ThreadPoolExecutor(12) as pool:
        for running in [pool.submit(guest, number) for number in range(12)]:
            running.result()
    assert most == 3
    assert timeouts
    assert (permits._free, len(permits._queue)) == (3, 0)
