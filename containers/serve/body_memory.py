"""The bytes of all request bodies that one front holds at once: what does not fit is refused before it is read."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from containers.serve.errors import Overloaded

Reserve = Callable[[int], None]


class BodyMemory:
    """`limit` in bytes. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[Reserve]:
        """One request's share: call it with the bytes that come in addition. Everything is given back at the end.

        The call raises Overloaded where there is no room for them.
        """
        mine = 0

        def reserve(count: int) -> None:
            nonlocal mine
            with self._lock:
                if self._held + count > self._limit:
                    raise Overloaded("the bodies that are read now take all the memory for them: try again, or add instances")
                self._held += count
                mine += count

        try:
            yield reserve
        finally:
            with self._lock:
                self._held -= mine
