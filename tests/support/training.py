"""A few tiny photos, their index, and real worker processes on them: what tests of training share."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from containers.train.config import TrainConfig
from containers.train.index import DatasetIndex, Photo
from containers.train.job import JobPaths, TrainingJob

REPOSITORY = Path(__file__).resolve().parents[2]
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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Workers:
    """The ranks of a job as processes, joined through torch.distributed's environment variables."""

    def __init__(self, job: TrainingJob, world_size: int = 1, program: tuple[str, ...] = ("-m", "containers.train.worker"),
                 **environment: str) -> None:  # fmt: skip
        port = str(free_port())
        job.paths.output_dir.mkdir(parents=True, exist_ok=True)
        self.logs = [job.paths.output_dir / f"rank{rank}.log" for rank in range(world_size)]
        self.processes = []
        for rank in range(world_size):
            env = {
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
                "KENNEL_DEVICE": "cpu", **environment,
            }  # fmt: skip
            with self.logs[rank].open("wb") as log:
                command = [sys.executable, *program, str(job.paths.job_file)]
                self.processes.append(
                    subprocess.Popen(
                        command, cwd=REPOSITORY, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )

    def wait(self) -> list[int]:
        """Exit codes, by rank."""
        deadline = time.monotonic() + DEADLINE
        try:
            return [process.wait(max(1.0, deadline - time.monotonic())) for process in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

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
            assert self.processes[rank].poll() is None, self.text(rank)
            assert time.monotonic() < deadline, f"no {event} in time\n{self.text(rank)}"
            time.sleep(0.02)

    def text(self, rank: int = 0) -> str:
        return self.logs[rank].read_text(encoding="utf-8")


def train(job: TrainingJob, world_size: int = 1, expect: int = 0) -> Workers:
    """Run a job to its end."""
    workers = Workers(job, world_size)
    codes = workers.wait()
    assert set(codes) == {expect}, f"{codes}\n" + "\n".join(workers.text(rank)[-6000:] for rank in range(world_size))
    return workers


def events(workers: Workers, event: str) -> list[dict]:
    return [line for line in workers.lines() if line["event"] == event]
