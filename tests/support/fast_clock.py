"""A clock that moves when somebody pauses by it, and with it the threads that wait for each other."""

import threading
from collections.abc import Callable


class FastClock:
    """`wait` says how long a pause of so many seconds really takes, in seconds."""

    def __init__(self, wait: Callable[[float], float]) -> None:
        self._now, self._lock, self._wait = 0.0, threading.Lock(), wait

    def __call__(self) -> float:
        return self._now

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
        threading.Event().wait(self._wait(seconds))
