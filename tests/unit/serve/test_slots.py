"""The ring's rules, one by one; test_slots_interleaved.py has them all at once."""

import contextlib
import os
import signal
import threading
import time

import pytest

from containers.serve.slots import SlotPool, Slots, State

SHAPE, CLASSES = (4, 4, 3), 2
LATER = 3600.0


def make(count: int) -> Slots:
    return Slots(count, SHAPE, CLASSES)


@pytest.fixture
def slots():
    ring = make(4)
    yield ring
    ring.close()


def soon(seconds: float = LATER) -> float:
    return time.monotonic() + seconds


def test_a_photo_goes_in_and_its_probabilities_come_out(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    slot = pool.acquire()
    slots.images[slot] = 7
    slots.submit(slot, soon())
    assert slots.take(0, 8, 1) == [slot]
    assert (slots.images[slot] == 7).all()
    slots.probabilities[slot] = [0.25, 0.75]
    slots.finish(slot, State.ANSWERED)
    assert slots.wait(slot, soon()) is State.ANSWERED
    assert slots.probabilities[slot].tolist() == [0.25, 0.75]
    pool.release(slot)
    assert slots.in_flight() == 0


def test_one_take_gets_everything_that_waits_in_order_up_to_the_limit(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    order = [pool.acquire() for _ in range(4)]
    for slot in reversed(order):
        slots.submit(slot, soon())
    assert slots.take(0, 3, 1) == order[:0:-1]
    assert slots.take(1, 3, 1) == [order[0]]
    assert slots.take(0, 3, 0) == []


def test_no_free_slot_is_none_at_once(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    found = [(pool.is_full(), pool.acquire()) for _ in range(5)]
    assert [full for full, _ in found] == [slot is None for _, slot in found] == [False] * 4 + [True]


def test_a_slot_that_may_still_be_written_is_not_reused(slots: Slots):
    pool = SlotPool(slots, 0, 1)
    slot = pool.acquire()
    slots.submit(slot, soon())
    assert slots.take(0, 1, 1) == [slot]
    assert slots.wait(slot, soon(0.01)) is State.TAKEN
    pool.release(slot)
    assert pool.is_full()
    assert pool.acquire() is None
    slots.finish(slot, State.ANSWERED)
    assert not pool.is_full()
    assert pool.acquire() == slot


def test_the_wake_up_of_an_abandoned_answer_is_not_taken_for_the_next_one(slots: Slots):
    pool = SlotPool(slots, 0, 1)
    slot = pool.acquire()
    slots.submit(slot, soon())
    slots.take(0, 1, 1)
    pool.release(slot)
    slots.finish(slot, State.ANSWERED)  # sets the eventfd nobody waits on
    assert pool.acquire() == slot
    slots.submit(slot, soon())
    assert slots.wait(slot, soon(0.05)) is State.WAITING


def test_a_late_request_is_expired_and_never_handed_out(slots: Slots):
    pool = SlotPool(slots, 0, 2)
    late, good = pool.acquire(), pool.acquire()
    slots.submit(late, soon(-1))
    slots.submit(good, soon())
    assert slots.take(0, 2, 1) == [good]
    assert slots.wait(late, soon()) is State.EXPIRED


def test_recover_loses_what_the_dead_held_and_requeues_what_it_had_only_read(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    held, read, waiting, other = (pool.acquire() for _ in range(4))
    slots.submit(other, soon())
    assert slots.take(1, 1, 1) == [other]
    slots.submit(held, soon())
    assert slots.take(0, 1, 1) == [held]
    slots.submit(read, soon())
    os.read(slots.fds[1], 2)  # process 0 dies right here
    slots.submit(waiting, soon())
    assert slots.recover(0) == 1
    assert slots.state(held) is State.LOST
    assert slots.state(other) is State.TAKEN
    assert sorted(slots.take(1, 8, 1)) == sorted([read, waiting])
    assert slots.take(1, 8, 0) == []


def test_a_number_read_twice_is_taken_once(slots: Slots):
    slot = SlotPool(slots, 0, 1).acquire()
    slots.submit(slot, soon())
    os.write(slots.fds[2], slot.to_bytes(2, "little"))
    assert slots.take(0, 8, 1) == [slot]
    slots.finish(slot, State.ANSWERED)
    assert slots.take(0, 8, 0) == []


def test_what_nobody_waits_for_any_more_is_not_computed_and_ends_to_be_in_use_without_being_needed_again(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    waiting, taken = pool.acquire(), pool.acquire()
    slots.submit(taken, soon())
    assert slots.take(0, 1, 1) == [taken]
    slots.submit(waiting, soon())
    for slot in (waiting, taken):
        pool.release(slot)
    assert slots.in_flight() == 2
    assert slots.take(0, 8, 1) == []
    assert slots.in_flight() == 1
    slots.finish(taken, State.ANSWERED)
    assert slots.in_flight() == 0
    again = [pool.acquire() for _ in range(4)]
    assert sorted(again) == [0, 1, 2, 3]
    assert slots.in_flight() == 4
    for slot in again:
        slots.submit(slot, soon())
    assert slots.take(0, 8, 1) == again
    for slot in again:
        slots.finish(slot, State.ANSWERED)
    assert slots.in_flight() == 4


def test_what_a_dead_front_waited_for_is_not_computed(slots: Slots):
    slot = SlotPool(slots, 0, 4).acquire()
    slots.submit(slot, soon())
    SlotPool(slots, 0, 4)
    assert slots.take(0, 8, 1) == []
    assert (slots.state(slot), slots.in_flight()) == (State.EXPIRED, 0)


def test_a_replaced_front_gets_the_slots_of_the_dead_one_back_when_nobody_writes_them(slots: Slots):
    dead = SlotPool(slots, 0, 4)
    filling, waiting, taken, answered = (dead.acquire() for _ in range(4))
    for slot in (taken, answered, waiting):
        slots.submit(slot, soon())
    slots.take(0, 2, 1)
    slots.finish(answered, State.ANSWERED)
    fresh = SlotPool(slots, 0, 4)
    assert sorted([fresh.acquire(), fresh.acquire()]) == sorted([filling, answered])
    assert fresh.acquire() is None
    slots.finish(taken, State.FAILED)
    assert fresh.acquire() == taken


def test_the_lock_of_a_killed_process_is_free_again(slots: Slots):
    ready_read, ready_write = os.pipe()
    if (child := os.fork()) == 0:
        with slots._exclusive():
            os.write(ready_write, b"x")
            signal.pause()
    os.read(ready_read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    slot = SlotPool(slots, 0, 1).acquire()
    slots.submit(slot, soon())
    assert slots.take(0, 1, 1) == [slot]
    os.close(ready_read)
    os.close(ready_write)


def test_waiting_threads_are_woken_by_another_process(slots: Slots):
    pool = SlotPool(slots, 0, 4)
    mine = [pool.acquire() for _ in range(4)]
    seen = {}
    threads = [threading.Thread(target=lambda slot=slot: seen.update({slot: slots.wait(slot, soon(60))})) for slot in mine]
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            for _ in range(4):
                for slot in slots.take(0, 1, 60):
                    slots.probabilities[slot] = slot
                    slots.finish(slot, State.ANSWERED)
        os._exit(0)
    for thread, slot in zip(threads, mine, strict=True):
        thread.start()
        slots.submit(slot, soon(60))
    for thread in threads:
        thread.join(60)
    os.waitpid(child, 0)
    assert seen == dict.fromkeys(mine, State.ANSWERED)
    assert slots.probabilities[:, 0].tolist() == [0, 1, 2, 3]
