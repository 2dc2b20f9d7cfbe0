"""A host's training job as its whole tree of processes: first process, launcher, rank, loaders; one start after the other."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.faults import invariants
from tests.faults.invariants import Broken, hold

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0
"""Seconds, for a machine under load."""
FLAGS = {
    "architecture": "mobilenet_v3_small", "pretrained": "none", "image_size": 64, "head_epochs": 2, "epochs": 6,
    "batch_size": 8, "patience": 0, "deterministic": "true", "num_workers": 1, "engines": "none", "device": "cpu",
}  # fmt: skip
_WORKER = "-m tests.faults.recording_worker"
PARTS = ("loader", "rank", "launcher", "first process")
"""Innermost first; each is started by the next."""


class Host:
    """One host's share of a job, started as often as it takes. `model_dir` and checkpoints survive its processes."""

    def __init__(self, data: Path, folder: Path, name: str = "") -> None:
        self.folder, self.starts = folder, 0
        folder.mkdir(parents=True)
        self.model_dir, self.work = folder / "model", folder / "model.run"
        self.checkpoints, self.failure = self.work / "checkpoints", self.work / "output" / "failure"
        name = name or f"faults-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        self._where = ["--data", str(data), "--model-dir", str(self.model_dir), "--job-name", name]

    def start(self, flags: Mapping[str, object] = {}, **environ: str) -> "Started":
        self.starts += 1
        given = [part for name, value in {**FLAGS, **flags}.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "tests.faults.start_job", *self._where, *given]
        return Started(command, self.folder / f"start-{self.starts:03d}", environ)

    def check(self, damaged: str = "") -> None:
        """I3 and I4, once nothing runs. `damaged` is a checkpoint that was altered on purpose."""
        invariants.model_whole(self.model_dir)
        if not damaged or invariants.newest(self.checkpoints) != damaged:
            invariants.checkpoint_whole(self.checkpoints)


class Started:
    """The processes of one start. `folder` has its log and the record of what each rank learned from."""

    def __init__(self, command: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        folder.mkdir()
        self._log, self.record = folder / "log", folder / "record"
        told = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "KENNEL_FAULTS_RECORD": str(self.record)}
        with self._log.open("wb") as out:
            environment = {**os.environ, **told, **environ}
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        self._family: set[psutil.Process] = {psutil.Process(self.process.pid)}

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def logged(self, event: str) -> list[dict]:
        return [json.loads(line) for line in self.text().splitlines() if f'"event": "{event}"' in line and line.endswith("}")]

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def tail(self) -> str:
        return self.text()[-2000:]

    def family(self) -> set[psutil.Process]:
        """Every process of this start that was ever seen."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self._family

    def reach(self, epochs: int, seconds: float) -> None:
        """Wait for so many more epochs (told by whichever rank 0 logs them), then so long; or for the end."""
        limit = time.monotonic() + DEADLINE
        while epochs and len(self.logged("epoch")) < epochs and self.running:
            self.family()
            hold(time.monotonic() < limit, "I1", f"no epoch in {DEADLINE:.0f} s:\n{self.tail()}")
            time.sleep(0.05)
        due = time.monotonic() + seconds
        while time.monotonic() < due and self.running:
            self.family()
            time.sleep(0.02)

    def parts(self) -> dict[str, list[psutil.Process]]:
        """The living processes, by what they are."""
        found: dict[str, list[psutil.Process]] = {name: [] for name in PARTS}
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(process.cmdline())
                if process.pid == self.process.pid:
                    found["first process"].append(process)
                elif "containers.train.launch" in command:
                    found["launcher"].append(process)
                elif _WORKER in command:
                    parent = " ".join((process.parent() or process).cmdline())
                    found["loader" if _WORKER in parent else "rank"].append(process)
        return found

    def kill_part(self, wanted: str) -> str:
        """SIGKILL one of them; returns which (a part that is not there yet, or no more, leaves its parent)."""
        found = self.parts()
        name = next(name for name in PARTS[PARTS.index(wanted) :] if found[name])
        with contextlib.suppress(psutil.NoSuchProcess):
            found[name][0].kill()
        return name

    def end(self) -> int:
        """I1. The exit code."""
        limit = time.monotonic() + DEADLINE
        while self.running and time.monotonic() < limit:
            self.family()
            time.sleep(0.05)
        if self.running:
            self.kill()
            raise Broken(f"I1: did not end:\n{self.tail()}")
        invariants.ended(self.family())
        return self.process.wait()

    def kill(self) -> None:
        """All of it, as when a host loses power."""
        invariants.kill(self.family())
        self.process.wait()
