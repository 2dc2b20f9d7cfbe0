"""The bytes of all request bodies that one front holds at once: what does not fit is refused before it is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from containers.serve.errors import Overloaded
from containers.serve.shares import Shares

Reserve = Callable[[int], None]


class BodyMemory:
    """`limit` in bytes. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._shares = Shares(limit)

    @contextmanager
    def share(self, model: str = "") -> Iterator[Reserve]:
        """One request's share: call it with the bytes that come in addition. Everything is given back at the end.

        The call raises Overloaded where there is no room for them, or where there are several models and those that wait for
        `model` have their part of it.
        """
        mine = 0

        def reserve(count: int) -> None:
            nonlocal mine
            if not self._shares.take(count, model):
                raise Overloaded("the bodies that are read now take all the memory for them: try again, or add instances")
            mine += count

        try:
            yield reserve
        finally:
            self._shares.give_back(mine, model)
