import weakref
from contextlib import suppress

import numpy as np
import pytest

from containers.serve.errors import ModelFailed, OutOfMemory
from containers.serve.predictor import PoisonedDevice, Predictor

SHAPE = (4, 4, 3)


class Device:
    """An engine whose memory holds `room` photos, and none once it has computed `lasts`; `sizes` are the batches it was given.
    Answers each photo's first pixel.
    """

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self, room: int, lasts: int = 1000) -> None:
        self.room, self.lasts, self.sizes = room, lasts, []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        if len(images) > min(self.room, self.lasts):
            raise self.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.lasts -= len(images)
        return images[:, 0, 0, :2].astype(np.float32)


def photos(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)


def test_out_of_memory_halves_the_batch_for_good_and_keeps_the_order():
    device = Device(room=3)
    predictor = Predictor(device, max_batch=8)
    assert predictor(photos(8))[:, 0].tolist() == list(range(8))
    assert device.sizes == [8, 4, 2, 2, 2, 2]
    device.sizes.clear()
    assert predictor(photos(5))[:, 0].tolist() == list(range(5))
    assert device.sizes == [2, 2, 1]


def test_one_photo_that_does_not_fit_is_the_caller_s_507():
    with pytest.raises(OutOfMemory, match="larger instance"):
        Predictor(Device(room=0), max_batch=4)(photos(4))


def test_answers_that_were_computed_before_memory_ran_out_come_with_the_error():
    device = Device(room=4, lasts=5)
    with pytest.raises(OutOfMemory) as caught:
        Predictor(device, max_batch=8)(photos(8))
    assert device.sizes == [8, 4, 4, 2, 1, 1]
    assert [answer[0] for answer in caught.value.answered] == [0, 1, 2, 3, 4]


def test_what_a_batch_that_did_not_fit_had_on_the_device_is_given_back_before_the_next_attempt():
    held = []

    class Activations:
        pass

    def engine(images: np.ndarray) -> np.ndarray:
        if any(there() is not None for there in held):
            raise MemoryError("full of what the attempt before left")
        activations = Activations()
        held.append(weakref.ref(activations))
        if len(images) > 2:
            raise MemoryError
        return np.full((len(images), 2), 0.5)

    predictor = Predictor(engine, max_batch=8)
    assert len(predictor(photos(8))) == 8
    assert predictor.max_batch == 2


def test_memory_error_of_the_host_counts_too():
    def engine(images: np.ndarray) -> np.ndarray:
        raise MemoryError

    with pytest.raises(OutOfMemory):
        Predictor(engine, max_batch=1)(photos(1))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_a_broken_cuda_context_is_said_to_be_beyond_repair(message: str):
    def engine(images: np.ndarray) -> np.ndarray:
        raise RuntimeError(message)

    with pytest.raises(PoisonedDevice, match=message):
        Predictor(engine, max_batch=1)(photos(1))


LIBRARYS = "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"
NO_ENGINE = "GET was unable to find an engine to execute this computation"
LATE = RuntimeError("CUDA error: device-side assert triggered")


class Hiding:
    """An engine that raises `error`, on a device of which `late` has been true since before. `calls` and `asked`: how often."""

    def __init__(self, error: Exception | None, late: RuntimeError | None = None) -> None:
        self.error, self.late = error, late
        self.calls, self.asked = 0, []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.error is not None and len(images) > 1:
            raise self.error
        return images[:, 0, 0, :2].astype(np.float32)

    def reported_late(self, error: RuntimeError) -> RuntimeError | None:
        self.asked.append(error)
        return self.late


def hidden(engine: Hiding) -> Predictor:
    return Predictor(engine, 4, engine.reported_late)


@pytest.mark.parametrize("words", [LIBRARYS, NO_ENGINE, "something new"])
def test_a_broken_context_that_only_a_library_s_error_told_of_is_asked_of_the_device(words: str):
    engine = Hiding(RuntimeError(words), LATE)
    with pytest.raises(PoisonedDevice, match=str(LATE)) as caught:
        hidden(engine)(photos(4))
    assert caught.value.__cause__ is engine.error  # the log has both
    assert engine.asked == [engine.error]
    assert engine.calls == 1


def test_an_error_on_a_device_that_is_whole_passes_through():
    engine = Hiding(RuntimeError(LIBRARYS))
    with pytest.raises(RuntimeError) as caught:
        hidden(engine)(photos(4))
    assert caught.value is engine.error
    assert engine.asked == [engine.error]


@pytest.mark.parametrize("late", [None, RuntimeError("CUDA error: out of memory")], ids=str)
def test_a_device_without_memory_is_whole(late: RuntimeError | None):
    engine = Hiding(RuntimeError(NO_ENGINE), late)
    predictor = hidden(engine)
    assert predictor(photos(4))[:, 0].tolist() == [0, 1, 2, 3]
    assert predictor.max_batch == 1


@pytest.mark.parametrize("error", [None, ValueError("a bug"), MemoryError(), LATE], ids=str)
def test_the_device_is_asked_nothing_where_it_has_nothing_to_say(error: Exception | None):
    """Of batches that were computed, of Python's own errors, and of what CUDA itself says."""
    engine = Hiding(error, LATE)
    with suppress(ValueError, PoisonedDevice):
        hidden(engine)(photos(4))
    assert engine.asked == []


class AcceleratorError(RuntimeError):
    """Named as torch's."""


NO_MEMORY = [
    AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("Exception from src/inference/src/dev/plugin.cpp:59:\nstd::bad_alloc\n"),
    RuntimeError("Loading input model\nCan not create file mapping for 4, err=Cannot allocate memory\n"),
]
"""As torch raises it where not its own allocator of the GPU has no memory left, but the driver, a library, or the host; and as
OpenVINO does."""


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_every_out_of_memory_halves_the_batch(error: Exception):
    def engine(images: np.ndarray) -> np.ndarray:
        if len(images) > 1:
            raise error
        return images[:, 0, 0, :2].astype(np.float32)

    assert len(Predictor(engine, max_batch=4)(photos(3))) == 3


def test_other_errors_pass_through():
    def engine(images: np.ndarray) -> np.ndarray:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Predictor(engine, max_batch=1)(photos(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_probabilities_are_refused(value: float):
    with pytest.raises(ModelFailed):
        Predictor(lambda images: np.full((len(images), 2), value), max_batch=2)(photos(2))


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_warm_up_runs_every_size_once(largest: int, sizes: list[int]):
    device = Device(room=99)
    Predictor(device, max_batch=largest).warm_up(SHAPE)
    assert device.sizes == sizes


def test_warm_up_finds_the_largest_batch_that_fits():
    device = Device(room=3)
    predictor = Predictor(device, max_batch=8)
    predictor.warm_up(SHAPE)
    assert device.sizes == [1, 2, 4, 2, 2]
    assert (predictor.max_batch, predictor.sizes) == (2, [1, 2])
