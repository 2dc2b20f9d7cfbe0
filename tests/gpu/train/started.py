"""A training job on the GPU as a user starts it, what programs are given to its worker, and what jobs leave."""

import json
import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch

from containers.train.checkpoint import LATEST
from containers.train.job import TrainingJob
from tests.unit.train import jobs

ROOT = Path(__file__).parents[3]
_CLOCKS = {"images_per_second", "data_wait_fraction", "comm_wait_fraction", "train_seconds"}


class Job(jobs.Job):
    """The same folder again is the same job, started again. `program` runs in its worker before anything else."""

    module = "containers.train"

    def __init__(self, folder: Path, data: Path, device: str, *, program: str = "", **settings: object) -> None:
        flags = {"data": data, "model_dir": folder / "model", "device": device, **settings}
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # what is carried along may be there
        if program:
            custom = folder / "custom"
            custom.mkdir(parents=True)
            (custom / "sitecustomize.py").write_text(_in_the_worker(program))
            path.insert(0, str(custom))
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        found = os.pathsep.join(filter(None, path))
        super().__init__(folder, *arguments, PYTHONPATH=found, TMPDIR=gettempdir())  # else paths too long for sockets

    def end(self, expect: int = 0) -> "Job":
        """Wait for the end of it."""
        with self:
            assert self.wait() == expect, self.out
        return self

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.out.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line.get("event") == event]


def _in_the_worker(program: str) -> str:
    lines = "".join(f"    {line}\n" for line in program.strip().splitlines())
    ours = '"-m containers.train.worker " in " ".join(sys.orig_argv)'  # the launcher is given the name as well
    return f"import sys\n\nif {ours}:\n{lines}"


def wait_at(step: int) -> str:
    """A program: after its step of this number, counted from 0, the worker says its pid and waits until it is asked to stop."""
    return f"""
import json, os, time
from containers.train import agreement, optimisation

requests, listen, step = [], agreement.StopRequest.listen, optimisation.Stepper.step

def listening(self):
    requests.append(self)
    listen(self)

def waiting(self, batch, rate, number):
    loss = step(self, batch, rate, number)
    if number == {step}:
        print(json.dumps({{"event": "waits", "pid": os.getpid()}}), flush=True)
        while not requests[0].asked:
            time.sleep(0.001)
    return loss

agreement.StopRequest.listen, optimisation.Stepper.step = listening, waiting
"""


def newest(checkpoints: Path) -> dict[str, Any]:
    """The state in the newest checkpoint, on the CPU."""
    name = json.loads((checkpoints / LATEST).read_text())["file"]
    state: dict[str, Any] = torch.load(checkpoints / name, map_location="cpu", weights_only=True)
    return state


def learned(job: TrainingJob) -> dict[str, Any]:
    """Of its newest checkpoint, what an undisturbed run must equal bitwise: everything but clocks."""
    state = newest(job.paths.checkpoint_dir)
    history = [{k: v for k, v in row.items() if k not in _CLOCKS} for row in state["progress"]["history"]]
    kept = {key: state[key] for key in ("model", "average", "optimizer", "scaler", "stopping")}
    return kept | {"progress": state["progress"] | {"history": history}}


def weights(job: TrainingJob) -> bytes:
    """Of its model."""
    return (job.paths.model_dir / "weights.safetensors").read_bytes()
