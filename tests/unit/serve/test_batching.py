"""The batcher with real slots and a thread in place of the model process."""

import threading
import time

import numpy as np
import pytest

from containers.serve import batching
from containers.serve.errors import OutOfMemory
from containers.serve.health import Health
from containers.serve.predictor import PoisonedDevice
from containers.serve.slots import SlotPool, Slots, State

SHAPE = (2, 2, 3)


class Stop(BaseException):
    """Ends the endless loop of the batcher."""


class Bench:
    """Slots, a pool, and `predict` run by the batcher in a thread; the batches it got are in `batches`."""

    def __init__(self, predict, max_batch: int = 4) -> None:
        self.slots, self.health, self.batches = Slots(8, SHAPE, 2), Health(1), []
        self.pool = SlotPool(self.slots, 0, 8)
        self.ended: BaseException | None = None
        self._predict, self.max_batch = predict, max_batch

    def submit(self, value: int) -> int:
        slot = self.pool.acquire()
        self.slots.images[slot] = value
        self.slots.submit(slot, time.monotonic() + 60)
        return slot

    def __enter__(self) -> "Bench":
        def predict(images: np.ndarray) -> np.ndarray:
            self.batches.append(images[:, 0, 0, 0].tolist())
            return self._predict(images)

        def run() -> None:
            try:
                batching.run(self.slots, self.health, 0, predict, lambda: self.max_batch)
            except (Stop, PoisonedDevice) as error:
                self.ended = error

        self._thread = threading.Thread(target=run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._predict = stop
            self.submit(0)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.slots.close()

    def outcome(self, slot: int) -> State:
        return self.slots.wait(slot, time.monotonic() + 60)


def stop(images: np.ndarray) -> np.ndarray:
    raise Stop


def double(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, :2].astype(np.float32) * 2


def test_what_waits_becomes_one_batch_and_each_photo_gets_its_own_answer():
    bench = Bench(double)
    slots = [bench.submit(value) for value in (1, 2, 3, 4, 5)]  # before the model is there: it was "busy"
    with bench:
        assert [bench.outcome(slot) for slot in slots] == [State.ANSWERED] * 5
        assert [bench.slots.probabilities[slot, 0] for slot in slots] == [2, 4, 6, 8, 10]
        assert bench.batches == [[1, 2, 3, 4], [5]]


def test_an_idle_model_waits_for_nobody():
    with Bench(double) as bench:
        for value in (1, 2):
            assert bench.outcome(bench.submit(value)) is State.ANSWERED
        assert bench.batches == [[1], [2]]


def test_a_batch_that_fails_fails_alone():
    def fails_on_one(images: np.ndarray) -> np.ndarray:
        if 1 in images:
            raise ValueError("bug")
        if 2 in images:
            raise OutOfMemory("full")
        return double(images)

    with Bench(fails_on_one, max_batch=1) as bench:
        outcomes = [bench.outcome(bench.submit(value)) for value in (1, 2, 3)]
    assert outcomes == [State.FAILED, State.NO_MEMORY, State.ANSWERED]


def test_what_was_computed_before_memory_ran_out_is_answered():
    def full_after_two(images: np.ndarray) -> np.ndarray:
        raise OutOfMemory("full", double(images[:2]))

    bench = Bench(full_after_two)
    slots = [bench.submit(value) for value in (1, 2, 3)]
    with bench:
        assert [bench.outcome(slot) for slot in slots] == [State.ANSWERED, State.ANSWERED, State.NO_MEMORY]
        assert [bench.slots.probabilities[slot, 0] for slot in slots[:2]] == [2, 4]


def test_a_limit_that_shrank_holds_for_what_is_taken_next():
    def shrinks(images: np.ndarray) -> np.ndarray:
        bench.max_batch = 2
        return double(images)

    bench = Bench(shrinks)
    slots = [bench.submit(value) for value in range(7)]
    with bench:
        assert [bench.outcome(slot) for slot in slots] == [State.ANSWERED] * 7
        assert bench.batches == [[0, 1, 2, 3], [4, 5], [6]]


def test_a_poisoned_device_fails_its_batch_and_ends_the_process():
    def poisoned(images: np.ndarray) -> np.ndarray:
        raise PoisonedDevice("CUDA error")

    with Bench(poisoned) as bench:
        assert bench.outcome(bench.submit(1)) is State.FAILED
        bench._thread.join(60)
    assert isinstance(bench.ended, PoisonedDevice)


def test_an_idle_process_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "IDLE_SECONDS", 0.01)
    with Bench(double) as bench:
        bench.health.ready(0)
        deadline = time.monotonic() + 60
        first = bench.health._beats[0]
        while bench.health._beats[0] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert bench.health.serving(60) == 1
