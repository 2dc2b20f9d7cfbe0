"""CUDA graphs on a machine without CUDA: `Tape` records for the CPU. What needs a GPU is skipped without one."""

import logging
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from containers.core import accelerator
from containers.core.errors import AcceleratorError
from containers.core.manifest import HALF_TOLERANCE
from containers.serve.engines import check_golden, eager
from containers.serve.engines.cuda_graphs import CudaRecorder, Graphs
from containers.serve.predictor import PoisonedDevice, Predictor

SHAPE = (2, 2, 3)
SIZES = (1, 2, 4, 8)
CPU = torch.device("cpu")
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
"""As torch's allocator, the driver and a library say it."""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Tape:
    """Does on a CPU what CUDA graphs do: the work again, from the same memory into the same memory.

    `played` are the sizes that were replayed; `fails` says why the capture of two photos fails; `off` is added to answers.
    """

    def __init__(self, fails: Exception | None = None, off: float = 0.0) -> None:
        self.fails, self.off = fails, off
        self.played: list[int] = []
        self.captured: list[int] = []
        self.in_order = nullcontext

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        answers = work()
        if self.fails and len(answers) == 2:
            raise self.fails
        self.captured.append(len(answers))

        def replay() -> None:
            answers.copy_(work() + self.off)
            self.played.append(len(answers))

        return replay, answers

    def release(self) -> None:
        self.captured.clear()


class Plain:
    """A model of three classes, and what plain torch makes of it; `sizes` are the batches that plain torch got."""

    def __init__(self) -> None:
        self.weights = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32))
        self.sizes: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1).float() / 255 @ self.weights).softmax(1)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.sizes.append(len(batch))
        with torch.inference_mode():
            return self.forward(torch.from_numpy(batch)).numpy()

    def graphs(self, tape: Tape) -> Graphs:
        return Graphs(self.forward, self, tape, device=CPU, tolerance=1e-6)


def photos(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def test_a_batch_takes_the_smallest_graph_that_holds_it_and_answers_as_plain_torch():
    plain, tape = Plain(), Tape()
    engine = plain.graphs(tape)
    assert engine.record(SHAPE, SIZES) == SIZES
    assert tape.captured == [8, 4, 2, 1]  # the largest first: the others fit into its memory
    tape.played.clear()
    for count in range(1, 11):
        np.testing.assert_allclose(engine(photos(count, count)), plain(photos(count, count)), atol=1e-6)
    assert tape.played == [1, 2, 4, 4, 8, 8, 8, 8]
    assert plain.sizes == [*range(1, 9), 9, 9, 10, 10]  # by itself only for what no graph holds


def test_an_answer_is_not_overwritten_by_the_next_and_shows_nothing_of_the_one_before():
    plain = Plain()
    engine = plain.graphs(Tape())
    engine.record(SHAPE, SIZES)
    full = engine(photos(8))
    kept = full.copy()
    after = engine(photos(5, seed=2))
    np.testing.assert_array_equal(full, kept)
    assert after.shape == (5, 3)
    np.testing.assert_allclose(after, plain(photos(5, seed=2)), atol=1e-6)


def test_before_anything_is_recorded_plain_torch_answers():
    plain, tape = Plain(), Tape()
    engine = plain.graphs(tape)
    np.testing.assert_array_equal(engine(photos(3)), plain(photos(3)))
    assert not tape.played


@pytest.mark.parametrize(
    "tape",
    [
        Tape(fails=RuntimeError("CUDA error: operation not permitted when stream is capturing")),
        Tape(fails=NO_MEMORY[0]),
        Tape(fails=NO_MEMORY[1]),
        Tape(off=0.01),
        Tape(off=float("nan")),
    ],
)
def test_where_a_graph_cannot_be_had_or_answers_otherwise_plain_torch_goes_on_and_the_log_says_so(tape: Tape, caplog):
    plain = Plain()
    engine = plain.graphs(tape)
    with caplog.at_level(logging.WARNING):
        assert engine.record(SHAPE, SIZES) == ()
    (line,) = caplog.records
    assert line.message.startswith("no CUDA graphs")
    assert line.exc_info
    assert str(tape.fails or "answers otherwise") in line.reason
    assert tape.captured == []  # released
    tape.played.clear()
    for count in range(1, 10):
        np.testing.assert_array_equal(engine(photos(count)), plain(photos(count)))
    assert not tape.played


def test_a_device_that_did_not_survive_the_attempt_names_the_setting():
    class Broken(Plain):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(AcceleratorError, match=r"stream is gone.*SERVE_CUDA_GRAPHS=off"):
        Broken().graphs(Tape(fails=RuntimeError("the stream is gone"))).record(SHAPE, SIZES)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_a_device_without_memory_for_one_photo_is_not_broken(error: Exception):
    class Full(Plain):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            raise error

    with pytest.raises(type(error)) as caught:
        Full().graphs(Tape(fails=error)).record(SHAPE, SIZES)
    assert caught.value is error  # `model_process` tells it from others by what it says


def test_a_device_that_breaks_while_a_graph_runs_is_not_asked_again():
    plain, tape = Plain(), Tape()
    predictor = Predictor(engine := plain.graphs(tape), max_batch=8)
    engine.record(SHAPE, predictor.sizes)

    def broken() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine._recorded[2] = broken, engine._recorded[2][1]
    with pytest.raises(PoisonedDevice):
        predictor(photos(2))
    assert plain.sizes == []


def test_what_does_not_fit_into_memory_is_not_recorded_either():
    class Small(Plain):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            if len(batch) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(batch)

    plain = Small()
    predictor = Predictor(engine := plain.graphs(Tape()), max_batch=8)
    predictor.warm_up(SHAPE)
    assert engine.record(SHAPE, predictor.sizes) == (1, 2)
    np.testing.assert_allclose(
        predictor(photos(7)), np.concatenate([plain(photos(7)[[index]]) for index in range(7)]), atol=1e-6
    )


@pytest.mark.parametrize("underway", [True, False])
def test_a_capture_that_cuda_gave_up_is_ended_for_torchs_memory_too(monkeypatch, underway: bool):
    recorder, ended, released = CudaRecorder.__new__(CudaRecorder), [], []
    recorder._device, recorder._pool = torch.device("cuda", 1), (0, 7)

    def end(*pool: object) -> None:
        if not underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        ended.append(pool)

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *pool: released.append(pool))
    recorder._end_recording()
    assert ended == released == [(1, (0, 7))] * underway


@needs_gpu
def test_on_a_gpu_graphs_answer_as_plain_torch_and_as_training_did(model_dir, manifest):
    engine = eager.load(model_dir, manifest, device="cuda")
    shape = manifest.preprocessing.shape
    batches = [np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8) for n in range(1, 10)]
    plain = [engine(batch) for batch in batches]
    assert engine.record(shape, SIZES) == SIZES
    for batch, before in zip(batches * 2, plain * 2, strict=True):
        np.testing.assert_allclose(engine(batch), before, atol=HALF_TOLERANCE)
    assert check_golden(engine, model_dir, manifest) < HALF_TOLERANCE


@needs_gpu
def test_on_a_gpu_work_that_cannot_be_captured_leaves_the_device_usable_and_its_memory_free(caplog):
    found = accelerator.detect("cuda")
    weights = torch.rand(3, device=found.device)
    before = torch.cuda.memory_allocated()

    def forward(pixels: Tensor) -> Tensor:
        answers = (pixels.flatten(1)[:, :3].float() / 255 * weights).softmax(1)
        if len(pixels) == 2:
            answers.sum().item()  # waits for the GPU
        return answers

    def plain(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return forward(torch.from_numpy(batch).to(found.device)).cpu().numpy()

    engine = Graphs(forward, plain, CudaRecorder(found.device), device=found.device, tolerance=HALF_TOLERANCE)
    assert engine.record(SHAPE, SIZES) == ()
    assert torch.cuda.current_stream(found.device) == torch.cuda.default_stream(found.device)
    np.testing.assert_array_equal(engine(photos(4)), plain(photos(4)))
    assert torch.cuda.memory_allocated() < before + (1 << 20)
