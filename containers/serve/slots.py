"""The bounded ring of photos between the HTTP fronts and the model processes: fixed slots in shared memory.

A slot holds one decoded photo (uint8, crop × crop × 3) and, later, its probabilities (float32, one per class). Everything is
made before the first fork, so its bound is memory that exists already: no free slot means "overloaded", at once.

            front            front              model             model
    FREE ─────────▶ FILLING ───────▶ WAITING ─────────▶ TAKEN ─────────────▶ ANSWERED · FAILED · NO_MEMORY
      ▲   acquire      │     submit     │       take      │       finish              │
      │                │ release        │ take, late      │ its process died          │
      │                │                ▼                 ▼ (supervisor)              │
      └────────────────┴───── ◀──── EXPIRED             LOST ────────────▶ ───────────┘
                                         release (by the front that owns the slot)

Each slot belongs to one front for good, so acquiring needs no lock between processes. `submit` writes the slot's number to one
pipe that all model processes read; one read takes everything that waits, up to the largest batch. `finish` sets the slot's
eventfd. The state is the truth, pipe and eventfd only wake: a number read twice (after `recover`) is ignored unless the slot
still waits, and a wake-up without a final state is slept through.

A front that stopped waiting (deadline) must not reuse the slot, since it may still be written: it stays abandoned until its
state is final, which the model process writes last, or the supervisor once that process is gone. Its deadline says so to all:
nobody computes it any more, and once it is final it is not in use, though its front takes it back only when it needs one.
"""

import fcntl
import mmap
import os
import select
import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum

import numpy as np


class State(IntEnum):
    FREE = 0
    FILLING = 1
    WAITING = 2
    TAKEN = 3
    ANSWERED = 4
    FAILED = 5
    NO_MEMORY = 6
    EXPIRED = 7
    LOST = 8

    @property
    def final(self) -> bool:
        return self >= State.ANSWERED


_NUMBER = struct.Struct("H")
_ALIGN = 64
_NOBODY_WAITS = 0.0  # as a deadline


class Slots:
    """`count` slots for photos of `shape` (height, width, 3) and `classes` probabilities, shared by everybody forked later.

    `images`, `probabilities`, `states`, `deadlines` (time.monotonic(), seconds) and `owners` (number of the model process) are
    views of the shared memory, one row per slot.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], classes: int) -> None:
        if not 0 < count <= 0xFFFF:
            raise ValueError(f"{count} slots: must be between 1 and 65535")
        self.count, self.shape, self.classes = count, shape, classes
        sizes = [count, count * 2, count * 8, count * classes * 4, count * int(np.prod(shape))]
        offsets = np.cumsum([0] + [size + -size % _ALIGN for size in sizes]).tolist()
        self.fds = self._make(offsets[-1])
        memory_fd, self._waiting, self._submit, *self._done = self.fds
        self._lock = memory_fd
        memory = mmap.mmap(memory_fd, offsets[-1])
        self.states = np.frombuffer(memory, np.uint8, count, offsets[0])
        self.owners = np.frombuffer(memory, np.int16, count, offsets[1])
        self.deadlines = np.frombuffer(memory, np.float64, count, offsets[2])
        self.probabilities = np.frombuffer(memory, np.float32, count * classes, offsets[3]).reshape(count, classes)
        self.images = np.frombuffer(memory, np.uint8, sizes[4], offsets[4]).reshape(count, *shape)

    def _make(self, size: int) -> list[int]:
        memory = os.memfd_create("kennel-slots")
        os.ftruncate(memory, size)
        waiting, submit = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return [memory, waiting, submit, *(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(self.count))]

    def close(self) -> None:
        """Give the file descriptors back; the memory goes with the last view of it."""
        for fd in self.fds:
            os.close(fd)

    def state(self, slot: int) -> State:
        return State(int(self.states[slot]))

    # The front's side.

    def submit(self, slot: int, deadline: float) -> None:
        """FILLING → WAITING. `deadline` is when nobody wants the answer any more (time.monotonic())."""
        self.deadlines[slot] = deadline
        self.states[slot] = State.WAITING
        os.write(self._submit, _NUMBER.pack(slot))

    def abandon(self, slot: int) -> None:
        """Nobody waits for the answer any more; the slot may be written until its state is final."""
        self.deadlines[slot] = _NOBODY_WAITS

    def wait(self, slot: int, deadline: float) -> State:
        """Sleep until the slot's state is final or the deadline has passed; returns its state then."""
        while not (state := self.state(slot)).final:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            if _readable(self._done[slot], remaining):
                with suppress(BlockingIOError):
                    os.eventfd_read(self._done[slot])
        return state

    # The model process's side.

    def take(self, owner: int, limit: int, timeout: float) -> list[int]:
        """Everything that waits, oldest first, at most `limit`; waits up to `timeout` seconds for the first.

        Requests whose deadline has passed become EXPIRED and are not returned.
        """
        if not _readable(self._waiting, timeout):
            return []
        taken = []
        with self._exclusive():
            try:
                numbers = os.read(self._waiting, limit * _NUMBER.size)
            except BlockingIOError:
                return []
            now = time.monotonic()
            for (slot,) in _NUMBER.iter_unpack(numbers):
                if self.states[slot] != State.WAITING:
                    continue
                if self.deadlines[slot] <= now:
                    self.finish(slot, State.EXPIRED)
                    continue
                self.owners[slot] = owner
                self.states[slot] = State.TAKEN
                taken.append(slot)
        return taken

    def finish(self, slot: int, state: State) -> None:
        """Write the final state and wake the front. Nobody but the front may touch the slot afterwards."""
        self.states[slot] = state
        os.eventfd_write(self._done[slot], 1)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One model process at a time. The kernel releases the lock when its holder dies."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    # The supervisor's side.

    def recover(self, owner: int) -> int:
        """Call once model process `owner` is gone: what it held is LOST, what it only read from the pipe is queued again.

        Returns how many photos were lost. Numbers may end up in the pipe twice, which `take` ignores.
        """
        lost = np.flatnonzero((self.states == State.TAKEN) & (self.owners == owner))
        for slot in lost:
            self.finish(int(slot), State.LOST)
        with suppress(BlockingIOError):
            while os.read(self._waiting, 1 << 16):
                pass
        for slot in np.flatnonzero(self.states == State.WAITING):
            os.write(self._submit, _NUMBER.pack(int(slot)))
        return len(lost)

    def in_flight(self) -> int:
        """How many slots are in use: not those that are free, or would be if a front needed one."""
        over = (self.states >= State.ANSWERED) & (self.deadlines == _NOBODY_WAITS)
        return int(np.count_nonzero((self.states != State.FREE) & ~over))

    def submitted(self) -> int:
        """How many photos wait for a model process or are computed now."""
        return int(np.count_nonzero((self.states == State.WAITING) | (self.states == State.TAKEN)))


def _readable(fd: int, timeout: float) -> bool:
    """Sleep until `fd` can be read, at most `timeout` seconds. Not select(), which fails from file descriptor 1,024 on."""
    waiter = select.poll()
    waiter.register(fd, select.POLLIN)
    return bool(waiter.poll(timeout * 1000))


class SlotPool:
    """One front's slots, `slots[first:first + count]`; used by all its threads.

    A front that replaces a dead one takes over its slots: those a model process may still write come back when they are final.
    """

    def __init__(self, slots: Slots, first: int, count: int) -> None:
        self.slots, self.count = slots, count
        self._free: deque[int] = deque()
        self._abandoned: deque[int] = deque()
        for slot in range(first, first + count):
            self.release(slot)

    def acquire(self) -> int | None:
        """A slot to fill, or None when there is none. FREE → FILLING."""
        try:
            slot = self._free.popleft()
        except IndexError:
            self._reclaim()
            try:
                slot = self._free.popleft()
            except IndexError:
                return None
        self.slots.states[slot] = State.FILLING
        return slot

    def refill(self, slot: int) -> None:
        """Use a slot whose state is final for the next photo of the same request. → FILLING."""
        self.slots.states[slot] = State.FILLING

    def release(self, slot: int) -> None:
        """Give a slot back: to be used again at once if it is final or was never submitted, else when it becomes final."""
        if self.slots.state(slot) in (State.WAITING, State.TAKEN):
            self.slots.abandon(slot)
            self._abandoned.append(slot)
            return
        self.slots.states[slot] = State.FREE
        self._free.append(slot)

    def _reclaim(self) -> None:
        for _ in range(len(self._abandoned)):
            try:
                self.release(self._abandoned.popleft())
            except IndexError:  # another thread was faster
                return

    def is_full(self) -> bool:
        """Whether `acquire` would find nothing."""
        if not self._free:
            self._reclaim()
        return not self._free
