"""CUDA graphs: the hundreds of kernels of a forward pass, started by the GPU itself instead of one by one from Python.

One graph for each batch size that the warm-up ran; a batch takes the smallest that holds it, and the rows beyond its photos
are computed and forgotten. As PyTorch's notes on CUDA semantics ask (docs.pytorch.org/docs/2.10/notes/cuda.html, "CUDA
Graphs"), the work runs a few times on a side stream before it is captured there; it reads and writes memory that stays where
it is; nothing in it waits for the GPU or copies from pageable memory. All graphs share one memory pool: right where they
never run at once and none needs what another left there. Here each batch is copied in, computed and copied out before the
next, the input lies outside the pool, and the answers stay referenced. The largest is captured first; the others fit into its
memory.

What cannot be captured, or answers otherwise than plain torch, is said in the log, and plain torch goes on. An error while a
graph *runs* is not caught: the device is broken then, and the process must end (`predictor`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from containers.core import logs
from containers.core.errors import AcceleratorError, is_out_of_memory
from containers.serve.engines import Engine, Shape

log = logs.get(__name__)

_WARM_UPS = 3  # as many as torch.cuda.make_graphed_callables runs


class Recorder(Protocol):
    """What a device can record. `CudaRecorder`, and in tests one for a CPU."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record `work`: a callable that does it again, and where its answers will lie."""

    def in_order(self) -> AbstractContextManager[None]:
        """Within, what is done happens in order with what was recorded."""

    def release(self) -> None:
        """Forget all that was recorded, and give its memory back."""


class Graphs:
    """An engine that replays `forward` (uint8 photos on `device` → float32 probabilities there) where its size was recorded.

    `plain` is the engine for all other batches.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        plain: Engine,
        recorder: Recorder,
        *,
        device: torch.device,
        tolerance: float,
    ) -> None:
        self._forward, self._plain, self._recorder = forward, plain, recorder
        self._device, self._tolerance = device, tolerance
        self._pixels = torch.empty(0)
        self._recorded: dict[int, tuple[Callable[[], None], Tensor]] = {}
        self._sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        place = bisect_left(self._sizes, len(batch))
        if place == len(self._sizes):
            return self._plain(batch)
        replay, answers = self._recorded[self._sizes[place]]
        with torch.inference_mode(), self._recorder.in_order():
            self._pixels[: len(batch)].copy_(torch.from_numpy(np.require(batch, requirements="W")))
            replay()
            return answers[: len(batch)].to("cpu", copy=True).numpy()

    def record(self, shape: Shape, sizes: Sequence[int]) -> tuple[int, ...]:
        """Capture a graph for each of `sizes`; returns them, or nothing where one cannot be had: then plain torch does it all.

        Raises AcceleratorError where the device did not survive the attempt, and torch's own error where, with all that was
        recorded given back, not even one photo fits into its memory.
        """
        try:
            with torch.inference_mode():
                self._pixels = torch.randint(0, 256, (max(sizes), *shape), dtype=torch.uint8).to(self._device)
                for size in sorted(sizes, reverse=True):
                    self._recorded[size] = self._captured(size)
        except Exception as error:
            log.warning("no CUDA graphs: small batches take longer", exc_info=True, extra={"reason": str(error)})
            reason = str(error)
        else:
            torch.cuda.empty_cache()  # what the comparison with plain torch took
            self._sizes = sorted(sizes)
            return tuple(self._sizes)
        self._give_up(shape, reason)  # out here: the exception's traceback would keep what is to be released
        return ()

    def _captured(self, size: int) -> tuple[Callable[[], None], Tensor]:
        """Raises RuntimeError where the graph's answers to random photos differ from plain torch's."""
        pixels = self._pixels[:size]
        replay, answers = self._recorder.capture(lambda: self._forward(pixels))
        with self._recorder.in_order():
            replay()
            difference = float((answers - self._forward(pixels)).abs().max())
        if not difference <= self._tolerance:  # also true of NaN
            raise RuntimeError(f"the graph for {size} photos answers otherwise than plain torch: off by {difference:.2g}")
        return replay, answers

    def _give_up(self, shape: Shape, reason: str) -> None:
        self._recorded.clear()
        self._pixels = torch.empty(0)
        try:
            self._recorder.release()
            self._plain(np.zeros((1, *shape), np.uint8))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AcceleratorError(
                f"the GPU broke while a CUDA graph was recorded ({reason}): set SERVE_CUDA_GRAPHS=off"
            ) from error


class CudaRecorder:
    """`torch.cuda.CUDAGraph`s of one device, captured and replayed on one side stream, in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        with self.in_order():
            for _ in range(_WARM_UPS):
                work()
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    answers = work()
            except BaseException:
                self._end_recording()
                raise
            finally:
                torch.cuda.set_stream(before)  # torch.cuda.graph leaves its own where the capture fails
        return graph.replay, answers

    def _end_recording(self) -> None:
        """Where CUDA itself gave a capture up, torch 2.10 goes on as if it were underway and its memory in use (pytorch 180395,
        190348): nothing that torch keeps for later would be given back any more, neither now nor when memory runs out.
        """
        try:
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
        except RuntimeError:  # torch has done it, as where not CUDA but the work failed
            return
        torch._C._cuda_releasePool(self._device.index, self._pool)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def release(self) -> None:
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        torch.cuda.empty_cache()
