"""Signals as PID 1 needs them: noted from the first moment on, acted upon in one place. Imports nothing heavy."""

import os
import select
import signal
from contextlib import suppress
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Signals:
    """Notes the signals of WATCHED; `wait` returns what came since the last call."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived: set[int] = set()
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.add(number)

    def wait(self, timeout: float) -> set[int]:
        """Sleep up to `timeout` seconds, less if a signal comes or came."""
        if not self._arrived:
            select.select([self._wake_read], [], [], timeout)
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        arrived, self._arrived = self._arrived, set()
        return arrived

    @staticmethod
    def reset() -> None:
        """In a forked child: signals do again what they do by default."""
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
