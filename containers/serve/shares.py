"""Something that there is so much of, in shares: however much one owner holds, another finds some."""

import threading
from collections import Counter


class Shares:
    """`limit` of it. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, count: int, owner: str = "") -> bool:
        """Whether `owner` got `count`. None gets more while it holds as much as is left, so one alone gets about half.

        Without a name, what there is.
        """
        with self._lock:
            left = self._limit - self._held.total()
            if count > left or (owner and self._held[owner] >= left):
                return False
            self._held[owner] += count
            return True

    def give_back(self, count: int, owner: str = "") -> None:
        with self._lock:
            self._held[owner] -= count
            if not self._held[owner]:
                del self._held[owner]
