"""One request's photos through the slots: decode, submit, wait; in order, within a deadline."""

import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from containers.core import preprocessing
from containers.core.errors import Error, ImageError, ImageTooLarge
from containers.core.preprocessing import PreprocessSpec
from containers.serve import telemetry
from containers.serve.admission import FULL
from containers.serve.content_types import Item, Outcome
from containers.serve.errors import (
    BadRequest,
    DeadlineExceeded,
    ModelFailed,
    OutOfMemory,
    Overloaded,
    ServiceError,
    TooLarge,
)
from containers.serve.permits import Permits
from containers.serve.slots import SlotPool, State

_CONCURRENT_DECODES = 2  # of one front: a photo of 100 megapixels needs up to 900 MB while it is decoded, a WebP 1.6 GB
_LATE = "no answer within the time a request may take: send fewer photos at once, or use a larger instance"


class Classifier:
    """A model as one front sees it. Thread-safe."""

    def __init__(self, pool: SlotPool, spec: PreprocessSpec, *, max_pixels: int, max_in_flight: int) -> None:
        self._pool = pool
        self._spec = spec
        self._max_pixels = max_pixels
        self._max_in_flight = max_in_flight
        self._decoding = Permits(_CONCURRENT_DECODES)

    @property
    def slots(self) -> int:
        """Photos of single requests that this front takes at once."""
        return self._pool.count

    def is_full(self) -> bool:
        """Whether `classify` would raise Overloaded now."""
        return self._pool.is_full()

    def classify(self, items: Sequence[Item], deadline: float) -> list[Outcome]:
        """One outcome per item, in order. `deadline` in time.monotonic() seconds.

        Raises Overloaded when there is no slot for the first photo; once begun, a request keeps a slot until it ends.
        Raises DeadlineExceeded when the deadline comes before the last photo is decoded, and the first ServiceError when no
        photo got an answer because of one.
        """
        outcomes: list[Outcome] = [BadRequest("not looked at")] * len(items)
        pending: deque[tuple[int, int]] = deque()  # (position in items, slot)
        spare: int | None = None
        try:
            for position, item in enumerate(items):
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded(_LATE)
                if isinstance(item, Error):
                    outcomes[position] = item
                    continue
                if spare is None:
                    spare = self._next_slot(pending, outcomes, deadline)
                if (problem := self._fill(spare, item, deadline)) is not None:
                    outcomes[position] = problem
                    continue
                self._pool.slots.submit(spare, deadline)
                pending.append((position, spare))
                spare = None
            while pending:
                self._pool.release(self._collect(pending, outcomes, deadline))
        finally:
            for slot in [slot for _, slot in pending] + ([] if spare is None else [spare]):
                self._pool.release(slot)
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        if failures and all(isinstance(outcome, Error) for outcome in outcomes):
            raise failures[0]
        return outcomes

    def _next_slot(self, pending: deque[tuple[int, int]], outcomes: list[Outcome], deadline: float) -> int:
        slot = self._pool.acquire() if len(pending) < self._max_in_flight else None
        if slot is not None:
            return slot
        if not pending:
            raise Overloaded(FULL)
        slot = self._collect(pending, outcomes, deadline)
        if not self._pool.slots.state(slot).final:  # given up, but it may still be written
            self._pool.release(slot)
            raise DeadlineExceeded(_LATE)
        self._pool.refill(slot)
        return slot

    def _fill(self, slot: int, photo: bytes, deadline: float) -> Error | None:
        """Decode `photo` into `slot`; returns what is wrong with it. Raises DeadlineExceeded when its turn comes too late."""
        try:
            with self._decoding.one(deadline), telemetry.DECODE_SECONDS.time():
                preprocessing.preprocess(photo, self._spec, max_pixels=self._max_pixels, out=self._pool.slots.images[slot])
        except TimeoutError:
            raise DeadlineExceeded(_LATE) from None
        except ImageTooLarge as error:
            return TooLarge(str(error))
        except ImageError as error:
            return BadRequest(str(error))
        except MemoryError:
            return OutOfMemory("not enough memory to decode this photo: send a smaller one")
        return None

    def _collect(self, pending: deque[tuple[int, int]], outcomes: list[Outcome], deadline: float) -> int:
        """Wait for the oldest photo of this request; returns its slot, whose state is final unless the deadline came first."""
        position, slot = pending[0]
        started = time.perf_counter()
        outcomes[position] = self._outcome(slot, self._pool.slots.wait(slot, deadline))
        telemetry.WAIT_SECONDS.observe(time.perf_counter() - started)
        pending.popleft()
        return slot

    def _outcome(self, slot: int, state: State) -> Outcome:
        if state is State.ANSWERED:
            answer: np.ndarray = self._pool.slots.probabilities[slot].copy()
            return answer
        if state is State.LOST:
            return ModelFailed("the model process died while it held this photo: send it again")
        if state is State.FAILED:
            return ModelFailed("the model failed on the batch with this photo; the server's log has the reason")
        if state is State.NO_MEMORY:
            return OutOfMemory("the device has not enough free memory for one photo: use a larger instance")
        return DeadlineExceeded(_LATE)
