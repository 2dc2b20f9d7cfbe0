"""The ring as a state machine that hypothesis drives through every interleaving it can find."""

import contextlib
import os
import time

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from containers.serve.slots import SlotPool, Slots, State

SHAPE, CLASSES = (4, 4, 3), 2
LATER = 3600.0


def soon(seconds: float = LATER) -> float:
    return time.monotonic() + seconds


class Ring(RuleBasedStateMachine):
    """Two fronts, two model processes and a supervisor, one step at a time, with deaths at every point.

    Every submitted photo carries a fresh number in its pixels, and an answer repeats the number its process read: a front that
    gets a number it did not submit has met a slot that two requests shared.
    """

    FRONTS, PER_FRONT, PROCESSES = 2, 3, 2

    @initialize()
    def start(self) -> None:
        self.slots = Slots(self.FRONTS * self.PER_FRONT, SHAPE, CLASSES)
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
