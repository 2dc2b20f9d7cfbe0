"""Training processes with one core each, kept alive between measurements, for what several of them cost each other."""

import multiprocessing
import os
import shutil
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

from benchmarks.training.measure import timed
from benchmarks.training.sides import Ours, photos

_FORK = multiprocessing.get_context("fork")


@dataclass
class Ranks:
    """A group of ranks. Call it: seconds for one epoch, of the slowest. Made before this process has threads of its own."""

    processes: list[ForkProcess]
    pipes: list[Connection]

    def begin(self) -> None:
        for pipe in self.pipes:
            pipe.send("epoch")

    def seconds(self) -> float:
        return max(float(pipe.recv()) for pipe in self.pipes)

    def __call__(self) -> float:
        self.begin()
        return self.seconds()

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send("end")
        for process in self.processes:
            process.join()


def start(root: Path, cores: list[int], per_rank: int) -> Ranks:
    """One rank on each of these cores; a step is `per_rank` photos on each of them, an epoch one step. ResNet-50 at 224."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ours, processes = [], []
    for number, core in enumerate(cores):
        here, there = _FORK.Pipe()
        environ = {"RANK": str(number), "WORLD_SIZE": str(len(cores)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        process = _FORK.Process(target=_rank, args=(root / str(number), core, per_rank * len(cores), environ, there))
        process.start()
        there.close()
        ours.append(here)
        processes.append(process)
    return Ranks(processes, ours)


def _rank(root: Path, core: int, count: int, environ: dict[str, str], pipe: Connection) -> None:
    os.sched_setaffinity(0, {core})
    os.environ.update(environ)
    torch.set_num_threads(1)
    side = Ours(root, photos(root / "photos", count), batch_size=count, num_workers=0)
    while pipe.recv() == "epoch":
        side.run.group.barrier()
        pipe.send(timed(side)[0])
    shutil.rmtree(root)
    os._exit(0)
