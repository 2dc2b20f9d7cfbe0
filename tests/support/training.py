"""A few tiny photos, their index, and real worker processes on them: what tests of training share."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from containers.core import accelerator
from containers.train import failure, own_process, worker
from containers.train.checkpoint import LATEST
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.index import DatasetIndex, Photo
from containers.train.job import JobPaths, TrainingJob
from tests.support.server import free_port

_FORK = multiprocessing.get_context("fork")
DEADLINE = 240.0
TINY = {
    "architecture": "mobilenet_v3_small", "pretrained": "none", "image_size": 64, "head_epochs": 2, "epochs": 2,
    "batch_size": 8, "learning_rate": 0.01, "augmentation": "randaugment", "patience": 0, "deterministic": True,
    "num_workers": 0, "engines": "none",
}  # fmt: skip


def photo(path: Path, label: int, number: int, size: tuple[int, int] = (48, 40)) -> Path:
    """Stripes whose direction is the label, with noise, so that it can be learned."""
    random = np.random.default_rng([label, number])
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    wave = np.sin((rows if label % 2 else columns) * (0.4 + 0.3 * (label // 2)) + random.uniform(0, 6))
    pixels = 128 + 80 * wave[..., None] + random.normal(0, 15, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def make_index(root: Path, train: int = 22, valid: int = 9, test: int = 7, classes: int = 2) -> DatasetIndex:
    """`train`, `valid` and `test` photos in all, spread over the classes in turn."""
    splits = {}
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        found = []
        for number in range(count):
            label = number % classes
            path = photo(root / split / f"class{label}" / f"{number:03d}.jpg", label, number + 1000 * len(split))
            found.append(Photo(path=path, label=label, width=48, height=40, bytes=path.stat().st_size))
        if found:
            splits[split] = tuple(found)
    return DatasetIndex(class_names=tuple(f"class{label}" for label in range(classes)), splits=splits)


def make_job(root: Path, index: DatasetIndex, **config: object) -> TrainingJob:
    """A job with directories of its own below `root`; written, with its index, where workers read it."""
    paths = JobPaths(
        model_dir=root / "model",
        output_dir=root / "output" / "data",
        checkpoint_dir=root / "checkpoints",
        failure_file=root / "output" / "failure",
        scratch_dir=root / "scratch",
    )
    job = TrainingJob(name="test", config=TrainConfig(**{**TINY, **config}), paths=paths, channels={"train": root})
    job.write()
    index.write(paths.index_file)
    return job


class Workers:
    """The ranks of a job as real processes: forked, so that none of them imports torch again."""

    def __init__(self, job: TrainingJob, world_size: int = 1, main: Callable[[Path], int] = worker.main) -> None:
        port = str(free_port())
        job.paths.output_dir.mkdir(parents=True, exist_ok=True)
        self.logs = [job.paths.output_dir / f"rank{rank}.log" for rank in range(world_size)]
        self.errors = [job.paths.output_dir / f"rank{rank}.error.json" for rank in range(world_size)]
        """What each rank says of its own end, as the launcher reads it (`failure.of_process`)."""
        self._job, self._main = job, main
        self.processes = [self._start(rank, world_size, port) for rank in range(world_size)]

    def _start(self, rank: int, world_size: int, port: str) -> BaseProcess:
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "KENNEL_DEVICE": "cpu",
            failure.ERROR_FILE_VARIABLE: str(self.errors[rank]),
        }  # fmt: skip
        self.logs[rank].write_bytes(b"")
        self.errors[rank].unlink(missing_ok=True)
        process = _FORK.Process(target=self._body, args=(rank, environment))
        process.start()
        return process

    def _body(self, rank: int, environment: dict[str, str]) -> None:
        os.setsid()
        log = os.open(self.logs[rank], os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ.update(environment)
        torch.set_num_threads(1)
        code = own_process.guarded(lambda: self._main(self._job.paths.job_file))
        sys.stdout.flush()
        os._exit(code)

    def wait(self) -> list[int]:
        """Exit codes, by rank; negative: the signal that ended it."""
        deadline = time.monotonic() + DEADLINE
        try:
            for process in self.processes:
                process.join(max(1.0, deadline - time.monotonic()))
            return [-999 if process.exitcode is None else process.exitcode for process in self.processes]
        finally:
            self.kill()

    def signal(self, number: int, rank: int = 0) -> None:
        os.kill(self.processes[rank].pid, number)

    def kill(self) -> None:
        """SIGKILL every rank with its loaders."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def lines(self, rank: int = 0) -> list[dict]:
        """The JSON lines a rank has logged so far."""
        found = []
        for line in self.logs[rank].read_text(encoding="utf-8").splitlines():
            if line.startswith("{") and line.endswith("}"):
                found.append(json.loads(line))
        return found

    def until(self, event: str, count: int = 1, rank: int = 0) -> None:
        """Wait until a rank has logged `event` so often. Fails when the process ends first."""
        deadline = time.monotonic() + DEADLINE
        while sum(line["event"] == event for line in self.lines(rank)) < count:
            assert self.processes[rank].is_alive(), self.text(rank)
            assert time.monotonic() < deadline, f"no {event} in time\n{self.text(rank)}"
            time.sleep(0.02)

    def text(self, rank: int = 0) -> str:
        return self.logs[rank].read_text(encoding="utf-8")


def train(job: TrainingJob, world_size: int = 1, expect: int = 0, main: Callable[[Path], int] = worker.main) -> Workers:
    """Run a job to its end."""
    workers = Workers(job, world_size, main)
    codes = workers.wait()
    assert set(codes) == {expect}, f"{codes}\n" + "\n".join(workers.text(rank)[-6000:] for rank in range(world_size))
    return workers


def events(workers: Workers, event: str) -> list[dict]:
    return [line for line in workers.lines() if line["event"] == event]


def newest(job: TrainingJob) -> dict[str, Any]:
    """The state in the newest checkpoint."""
    name = json.loads((job.paths.checkpoint_dir / LATEST).read_text(encoding="utf-8"))["file"]
    return torch.load(job.paths.checkpoint_dir / name, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Bitwise equality of nested containers of tensors and numbers."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def learned(job: TrainingJob) -> dict[str, Any]:
    """Of the newest checkpoint, what an undisturbed run of the same job must equal bitwise: everything but clocks."""
    state = newest(job)
    clocks = {"images_per_second", "data_wait_fraction", "comm_wait_fraction", "train_seconds"}
    history = [{key: value for key, value in row.items() if key not in clocks} for row in state["progress"]["history"]]
    kept = {key: state[key] for key in ("model", "average", "optimizer", "scaler", "stopping")}
    return kept | {"progress": state["progress"] | {"history": history}}


def in_ranks(world_size: int, body: Callable[..., Any]) -> list[Any]:
    """`body(group)` on each of `world_size` forked ranks joined by gloo; their picklable results, in rank order."""
    port, queue = str(free_port()), _FORK.SimpleQueue()

    def run(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        torch.set_num_threads(1)
        group = Group.join(accelerator.detect("cpu"))
        result = body(group)
        group.barrier()
        queue.put(pickle.dumps((rank, result)))  # as bytes: torch would pass tensors by file descriptors of a process that ends
        group.leave()
        os._exit(0)

    processes = [_FORK.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    try:
        found = dict(pickle.loads(queue.get()) for _ in _until_done(processes, queue))
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert len(found) == world_size, [process.exitcode for process in processes]
    return [found[rank] for rank in range(world_size)]


def _until_done(processes: list[BaseProcess], queue: Any) -> Iterator[None]:
    """Once per result, until all have come or a process has died."""
    deadline = time.monotonic() + DEADLINE
    came = 0
    while came < len(processes) and time.monotonic() < deadline:
        if not queue.empty():
            came += 1
            yield
        elif any(process.exitcode not in (None, 0) for process in processes):
            return
        else:
            time.sleep(0.01)
