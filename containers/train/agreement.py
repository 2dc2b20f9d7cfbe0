"""Asked to stop, or to keep what was done: how one process hears it, and how all ranks come to act on it at the same step."""

import contextlib
import enum
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from containers.train.distributed import Group


class Signal(enum.IntEnum):
    """What the ranks agreed on at a step; the largest wins."""

    GO = 0
    CHECKPOINT = 1
    STOP = 2
    NON_FINITE = 3


class StopRequested(BaseException):
    """Raised on every rank at the same step; the trainer turns it into a checkpoint.

    No Exception: it may come out of a signal handler in the middle of any library, and what handles errors must not swallow it.
    """


class StopRequest:
    """Remembers that this process was asked to stop. The signal handler sets a flag and does nothing else."""

    def __init__(self) -> None:
        self.asked = False
        self._impatient = self._raised = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT, also those that came while they were blocked. Call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._impatient:
            self._impatient, self._raised = False, True  # once: what it leads to is not to be left in its middle
            raise StopRequested

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work on one rank that can be abandoned anywhere: a request raises StopRequested right here.

        Native code may lose it, or make an error of its own of it (seen: safetensors, with torch's words for a wrong argument).
        Then it is raised at the end of the block, in place of what the block itself ends with.
        """
        self._impatient, self._raised = True, False
        try:
            if self.asked:
                raise StopRequested
            yield
        finally:
            self._impatient = False
            if self._raised:
                raise StopRequested


class Agreement:
    """Every rank asks `poll` at the same points; all get the same answer at the same point.

    Asking costs no wait: a poll starts a one-integer maximum over the ranks and returns what the poll before it found.
    `stop_file` is the launcher's way to say what a signal says.
    """

    def __init__(self, group: Group, request: StopRequest, stop_file: Path, checkpoint_every_seconds: float) -> None:
        self._group, self._request, self._stop_file = group, request, stop_file
        self._every = checkpoint_every_seconds
        self._announced = False
        self._saved_at = time.monotonic()
        self._pending: tuple[Any, Tensor] | None = None

    def asked(self) -> bool:
        """This process has had its signal; what other ranks know is for `poll`."""
        return self._request.asked

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        """For work that this process may leave anywhere: see `StopRequest`."""
        return self._request.at_once()

    def saved(self) -> None:
        """A checkpoint was written: the clock starts again."""
        self._saved_at, self._announced = time.monotonic(), False

    def _local(self, finite: bool, can_save: bool) -> Signal:
        if not finite:
            return Signal.NON_FINITE
        if self._request.asked or self._stop_file.exists():
            return Signal.STOP
        due = can_save and self._group.is_first and not self._announced and time.monotonic() - self._saved_at >= self._every
        self._announced = self._announced or due
        return Signal.CHECKPOINT if due else Signal.GO

    def poll(self, *, finite: bool = True, can_save: bool = True) -> Signal:
        """The largest signal any rank gave one poll ago (with one rank: now)."""
        local = self._local(finite, can_save)
        if self._group.world_size == 1:
            return local
        answer = Signal.GO
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            answer = Signal(int(flag))
        flag = torch.tensor([int(local)], dtype=torch.int64)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group.control, async_op=True), flag)
        return answer

    def check(self) -> None:
        """Poll where nothing but stopping matters. Raises StopRequested, on all ranks at the same point."""
        if self.poll(can_save=False) is Signal.STOP:
            raise StopRequested
