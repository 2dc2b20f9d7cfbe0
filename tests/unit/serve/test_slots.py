"""The ring's rules, one by one, then as a state machine that hypothesis drives through every interleaving it can find."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
    assert [pool.acquire() for _ in range(5)].count(None) == 1


def test_a_slot_that_may_still_be_written_is_not_reused(slots: Slots):
    pool = SlotPool(slots, 0, 1)
    slot = pool.acquire()
    slots.submit(slot, soon())
    assert slots.take(0, 1, 1) == [slot]
    assert slots.wait(slot, soon(0.01)) is State.TAKEN
    pool.release(slot)
    assert pool.acquire() is None
    slots.finish(slot, State.ANSWERED)
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


class Ring(RuleBasedStateMachine):
    """Two fronts, two model processes and a supervisor, one step at a time, with deaths at every point.

    Every submitted photo carries a fresh number in its pixels, and an answer repeats the number its process read: a front that
    gets a number it did not submit has met a slot that two requests shared.
    """

    FRONTS, PER_FRONT, PROCESSES = 2, 3, 2

    @initialize()
    def start(self) -> None:
        self.slots = make(self.FRONTS * self.PER_FRONT)
        self.pools = [SlotPool(self.slots, front * self.PER_FRONT, self.PER_FRONT) for front in range(self.FRONTS)]
        self.filling: list[list[int]] = [[] for _ in range(self.FRONTS)]
        self.asked: list[dict[int, int]] = [{} for _ in range(self.FRONTS)]  # slot → number of its photo
        self.working: list[dict[int, int]] = [{} for _ in range(self.PROCESSES)]
        self.next = 0

    fronts = st.integers(0, FRONTS - 1)
    processes = st.integers(0, PROCESSES - 1)

    @rule(front=fronts)
    def acquire(self, front: int) -> None:
        slot = self.pools[front].acquire()
        if slot is not None:
            assert front * self.PER_FRONT <= slot < (front + 1) * self.PER_FRONT
            assert slot not in self.filling[front]
            assert slot not in self.asked[front]
            assert not any(slot in work for work in self.working), "a slot that is still written was handed out"
            self.filling[front].append(slot)

    @rule(front=fronts, late=st.booleans())
    def submit(self, front: int, late: bool) -> None:
        if self.filling[front]:
            slot = self.filling[front].pop()
            self.next = (self.next + 1) % 250
            self.slots.images[slot] = self.next
            self.asked[front][slot] = self.next
            self.slots.submit(slot, soon(-1 if late else LATER))

    @rule(front=fronts, process=processes)
    def submit_while_a_process_dies(self, front: int, process: int) -> None:
        """The supervisor recovers between the front's two steps, so that the number is in the pipe twice."""
        if self.filling[front]:
            slot = self.filling[front][-1]
            self.slots.deadlines[slot] = soon()
            self.slots.states[slot] = State.WAITING
            self.die(process)
            self.submit(front, late=False)

    @rule(front=fronts)
    def undecodable(self, front: int) -> None:
        if self.filling[front]:
            self.pools[front].release(self.filling[front].pop())

    @rule(process=processes, limit=st.integers(1, 4))
    def take(self, process: int, limit: int) -> None:
        for slot in self.slots.take(process, limit, 0):
            assert not any(slot in work for work in self.working), "two processes have one slot"
            assert self.slots.deadlines[slot] > time.monotonic(), "a late request would be computed"
            self.working[process][slot] = int(self.slots.images[slot, 0, 0, 0])

    @rule(process=processes)
    def die_between_reading_and_taking(self, process: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.slots.fds[1], 4)
        self.die(process)

    @rule(process=processes, outcome=st.sampled_from([State.ANSWERED, State.FAILED, State.NO_MEMORY]))
    def finish(self, process: int, outcome: State) -> None:
        if self.working[process]:
            slot, number = self.working[process].popitem()
            self.slots.probabilities[slot] = number
            self.slots.finish(slot, outcome)

    @rule(process=processes)
    def die(self, process: int) -> None:
        held, self.working[process] = self.working[process], {}
        assert self.slots.recover(process) == len(held)
        assert all(self.slots.state(slot) is State.LOST for slot in held)

    @rule(front=fronts)
    def collect(self, front: int) -> None:
        for slot, number in list(self.asked[front].items()):
            if (state := self.slots.wait(slot, soon(-1))).final:
                if state is State.ANSWERED:
                    assert self.slots.probabilities[slot].tolist() == [number] * CLASSES
                del self.asked[front][slot]
                self.pools[front].release(slot)

    @rule(front=fronts)
    def give_up(self, front: int) -> None:
        if self.asked[front]:
            slot, _ = self.asked[front].popitem()
            self.pools[front].release(slot)

    @rule(front=fronts)
    def front_dies_and_is_replaced(self, front: int) -> None:
        self.filling[front], self.asked[front] = [], {}
        self.pools[front] = SlotPool(self.slots, front * self.PER_FRONT, self.PER_FRONT)

    @invariant()
    def what_waits_can_be_taken(self) -> None:
        if hasattr(self, "slots"):
            for work in self.working:
                assert all(self.slots.state(slot) is State.TAKEN for slot in work)

    def teardown(self) -> None:
        """Once everything calms down nothing is lost: every accepted photo is answered and every slot comes back."""
        if not hasattr(self, "slots"):
            return
        for process in range(self.PROCESSES):
            self.die(process)
        for _ in range(100):
            for slot in self.slots.take(0, 2, 0):
                self.slots.probabilities[slot] = int(self.slots.images[slot, 0, 0, 0])
                self.slots.finish(slot, State.ANSWERED)
        assert not np.isin(self.slots.states, [State.WAITING, State.TAKEN]).any()
        for front, pool in enumerate(self.pools):
            self.collect(front)
            assert not self.asked[front]
            for slot in self.filling[front]:
                pool.release(slot)
            assert len({pool.acquire() for _ in range(self.PER_FRONT)} - {None}) == self.PER_FRONT
        self.slots.close()


TestRing = Ring.TestCase
TestRing.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
