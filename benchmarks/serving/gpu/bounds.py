"""What the machine could do without a server: decoding on every core, the engine's forward pass, and both in a bare pipeline.

Processes decode into blocks of shared memory that hold one batch each; this process hands every full block to the engine. There
is no HTTP, no queue but that of full blocks, and no copy that the engine does not make itself.
"""

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import numpy as np

from containers.core import manifest, preprocessing
from containers.serve.engines import Engine

LARGEST = 64
_BLOCKS = 2  # of each process: it fills one while the other waits for the engine
_LEAD_SECONDS = 0.3
_PATIENCE_SECONDS = 60.0  # for a block: the processes import numpy and Pillow first

Full = tuple[int, int, int]
"""Number of the process, of its block, and how many photos are in it."""


class Decoders:
    """One process per core, decoding photos over and over; see `decoding`."""

    def __init__(self, photos: Path, model_dir: Path, processes: int) -> None:
        self._shape = manifest.read(model_dir).preprocessing.shape
        context = multiprocessing.get_context("spawn")
        memory = context.RawArray(ctypes.c_uint8, processes * _BLOCKS * LARGEST * int(np.prod(self._shape)))
        self._blocks = _view(memory, self._shape)
        self._batch = context.Value("i", 0)
        self._full: Queue[Full] = context.Queue()
        self._free = [context.Semaphore(_BLOCKS) for _ in range(processes)]
        self.workers = [
            context.Process(
                target=_decode,
                args=(number, photos, model_dir, memory, self._batch, self._full, self._free[number]),
                daemon=True,
            )
            for number in range(processes)
        ]
        for worker in self.workers:
            worker.start()

    def through(self, take: Callable[[np.ndarray], object], batch: int, seconds: float) -> float:
        """Photos per second that are decoded in batches of `batch` and taken by `take`, one batch after the other."""
        self._batch.value = batch
        done, opens, closes = 0, 0.0, float("inf")
        left = len(self._free) * _BLOCKS  # blocks that were full before this began
        while (now := time.perf_counter()) < closes:
            process, block, photos = self._full.get(timeout=_PATIENCE_SECONDS)
            if photos == batch:  # not one that was decoded for the window before
                take(self._blocks[process * _BLOCKS + block, :photos])
            self._free[process].release()
            left -= 1
            if left == 0:
                now = time.perf_counter()
                opens, closes, done = now + _LEAD_SECONDS, now + _LEAD_SECONDS + seconds, 0
            elif now >= opens > 0 and photos == batch:
                done += photos
        return done / seconds

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()
            worker.join()


@contextmanager
def decoding(photos: Path, model_dir: Path, processes: int | None = None) -> Iterator[Decoders]:
    """As many processes as there are cores unless told otherwise. They wait while nobody takes what they decoded."""
    decoders = Decoders(photos, model_dir, processes or len(os.sched_getaffinity(0)))
    try:
        yield decoders
    finally:
        decoders.stop()


def _view(memory: Any, shape: tuple[int, int, int]) -> np.ndarray:
    return np.frombuffer(memory, np.uint8).reshape(-1, LARGEST, *shape)


def _decode(
    number: int, photos: Path, model_dir: Path, memory: Any, batch: "Synchronized[int]", full: "Queue[Full]", free: Semaphore
) -> None:
    spec = manifest.read(model_dir).preprocessing
    blocks, files = _view(memory, spec.shape), [path.read_bytes() for path in sorted(photos.iterdir())]
    done, block = number, 0
    while not batch.value:
        time.sleep(0.01)
    while True:
        free.acquire()
        count = batch.value
        for place in range(count):
            preprocessing.preprocess(files[done % len(files)], spec, out=blocks[number * _BLOCKS + block, place])
            done += 1
        full.put((number, block, count))
        block = (block + 1) % _BLOCKS


def forward(engine: Engine, pixels: np.ndarray, batch: int, seconds: float) -> dict[str, float]:
    """Photos per second and the median milliseconds of one batch through `engine`, in a bare loop."""
    chosen = np.resize(pixels, (batch, *pixels.shape[1:]))
    for _ in range(3):
        engine(chosen)
    taken: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        engine(chosen)
        taken.append(time.perf_counter() - now)
    return {"photos_per_second": batch * len(taken) / sum(taken), "ms": float(np.median(taken)) * 1000}
