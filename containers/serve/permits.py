"""So many at a time, first come first served, and nobody waits past a deadline."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Permits:
    """Like threading.Semaphore, which lets in again who just left before those who wait: a batch would then starve them."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._queue: deque[threading.Lock] = deque()  # one locked lock for each who waits; none while a permit is free

    @contextmanager
    def one(self, deadline: float) -> Iterator[None]:
        """Holds a permit. Raises TimeoutError when none was had by `deadline` (time.monotonic(), seconds)."""
        if not self._take(deadline):
            raise TimeoutError("no permit in time")
        try:
            yield
        finally:
            self._give_back()

    def _take(self, deadline: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._queue.append(turn)
        if turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return True
        with self._lock:
            if turn not in self._queue:  # it was handed to us a moment too late to be noticed
                return True
            self._queue.remove(turn)
        return False

    def _give_back(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._free += 1
