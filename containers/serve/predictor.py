"""An engine, made safe to call: memory that runs out, devices that break, answers that are not probabilities."""

import itertools
import sys
from collections.abc import Callable

import numpy as np

from containers.core import logs
from containers.core.errors import is_out_of_memory
from containers.serve.engines import Engine, nothing_late
from containers.serve.errors import ModelFailed, OutOfMemory

log = logs.get(__name__)

_BROKEN = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS_EXECUTION_FAILED")


class PoisonedDevice(Exception):
    """The CUDA context is unusable for good; only a new process helps."""


class Predictor:
    """uint8 (N, crop, crop, 3) → float32 (N, classes), N from 1 to `max_batch`. `reported_late` as of a `LoadedEngine`."""

    def __init__(
        self, engine: Engine, max_batch: int, reported_late: Callable[[RuntimeError], RuntimeError | None] = nothing_late
    ) -> None:
        self._engine, self._reported_late = engine, reported_late
        self.max_batch = max_batch

    @property
    def sizes(self) -> list[int]:
        """Every power of two below the largest batch, and the largest."""
        return [1 << power for power in range((self.max_batch - 1).bit_length())] + [self.max_batch]

    def warm_up(self, shape: tuple[int, int, int]) -> None:
        """Run each of `sizes` once, so that no caller pays for first-time work."""
        for size in self.sizes:
            if size <= self.max_batch:  # it may have shrunk
                self(np.zeros((size, *shape), np.uint8))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """When the device's memory runs out the batch is halved, for this call and from then on.

        Raises OutOfMemory, with the answers so far, when not even one photo fits, ModelFailed when the answer is not
        probabilities, PoisonedDevice.
        """
        answers: list[np.ndarray] = []
        done = 0
        while done < len(images):
            try:
                answers.append(self._forward(images[done : done + self.max_batch]))
            except OutOfMemory as error:
                raise OutOfMemory(str(error), [*itertools.chain(*answers), *error.answered]) from error
            done += len(answers[-1])
        return np.concatenate(answers)

    def _forward(self, images: np.ndarray) -> np.ndarray:
        answers = self._attempt(images)
        if answers is None:
            self.max_batch = len(images) // 2
            log.warning("out of memory: smaller batches from now on", extra={"max_batch": self.max_batch})
            _release_cached_memory()
            return self(images)
        if len(answers) != len(images) or not np.isfinite(answers).all():
            raise ModelFailed("the model's answer is not a probability for each class")
        return answers

    def _attempt(self, images: np.ndarray) -> np.ndarray | None:
        """None where memory ran out and fewer photos may fit: with the error goes its traceback, which keeps alive what the
        attempt had on the device. Nothing could be computed before that is given back.
        """
        try:
            return self._engine(images)
        except Exception as error:
            if cause := self._broken(error):
                raise PoisonedDevice(str(cause)) from error
            if not is_out_of_memory(error):
                raise
            if len(images) == 1:
                raise OutOfMemory("the device has not enough free memory for one photo: use a larger instance") from error
        return None

    def _broken(self, error: Exception) -> Exception | None:
        """Why only a new process helps, None where this one may go on.

        Where the words of `error` do not say so the device is asked: a library may name only itself, or torch say that it found
        no way to compute because each that it tried failed (ATen/native/cudnn/Conv_v8.cpp), as where memory has run out. No
        CUDA graph is being recorded then, which asking would spoil: `record` does not come through here.
        """
        if is_poisoned(error):
            return error
        cause = self._reported_late(error) if isinstance(error, RuntimeError) else None
        return None if cause is None or is_out_of_memory(cause) else cause


def is_poisoned(error: BaseException) -> bool:
    """CUDA errors other than "out of memory" stay with the context: every later call fails too (CUDA driver API).

    Kernels fail after the call that started them; who meets the error first may be a library, which has its own words for it.
    """
    known = type(error).__name__ == "AcceleratorError" or any(words in str(error) for words in _BROKEN)
    return known and not is_out_of_memory(error)


def _release_cached_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
