"""What every process of the server may know of the others: who is ready, who still lives, whether we are shutting down.

A small block of shared memory made before the first fork. Each model process writes its own row; the supervisor clears it.
"""

import mmap
import time

import numpy as np

_MESSAGE_BYTES = 1000


class Health:
    """`processes` rows, one per model process."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        memory = mmap.mmap(-1, 8 + processes * (8 + 1 + _MESSAGE_BYTES))
        self._draining = np.frombuffer(memory, np.uint8, 1, 0)
        self._beats = np.frombuffer(memory, np.float64, processes, 8)
        self._ready = np.frombuffer(memory, np.uint8, processes, 8 + processes * 8)
        self._messages = np.frombuffer(memory, np.uint8, processes * _MESSAGE_BYTES, 8 + processes * 9).reshape(
            processes, _MESSAGE_BYTES
        )

    @property
    def draining(self) -> bool:
        return bool(self._draining[0])

    def drain(self) -> None:
        """The server was asked to stop: `/ping` says so from now on."""
        self._draining[0] = 1

    def beat(self, process: int) -> None:
        """The model process shows that it lives."""
        self._beats[process] = time.monotonic()

    def ready(self, process: int) -> None:
        """The model process has loaded, warmed up and checked its model."""
        self.beat(process)
        self._ready[process] = 1

    def gone(self, process: int) -> None:
        """The supervisor saw the model process end."""
        self._ready[process] = 0

    def is_ready(self, process: int) -> bool:
        return bool(self._ready[process])

    def is_stuck(self, process: int, after_seconds: float) -> bool:
        """Ready once, but without a sign of life for `after_seconds`."""
        return self.is_ready(process) and time.monotonic() - float(self._beats[process]) > after_seconds

    def serving(self, stuck_after_seconds: float) -> int:
        """How many model processes would answer now."""
        return sum(self.is_ready(n) and not self.is_stuck(n, stuck_after_seconds) for n in range(self.processes))

    def explain(self, process: int, message: str) -> None:
        """Why the model process is about to end; the supervisor reports it, as one line."""
        data = " ".join(message.splitlines()).encode(errors="backslashreplace")[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
        self._messages[process] = np.frombuffer(data, np.uint8)

    def explanation(self, process: int) -> str:
        """What `explain` wrote, empty if nothing."""
        return bytes(self._messages[process]).rstrip(b"\0").decode(errors="replace")
