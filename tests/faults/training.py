"""Events for a training job on this machine: kill -9 or SIGTERM to one of its processes, at a moment the seed decides."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from containers.core import manifest

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0
"""Seconds, for a machine under load."""
KINDS = ("kill a rank", "kill a loader", "kill the launcher", "kill the first process", "ask it to stop")
FLAGS = {
    "architecture": "mobilenet_v3_small", "pretrained": "none", "image_size": 64, "head_epochs": 2, "epochs": 6,
    "batch_size": 8, "patience": 0, "deterministic": "true", "num_workers": 1, "engines": "none", "device": "cpu",
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """`kind` happens `seconds` after the first process was started, or after `epochs` more epochs where that is not 0."""

    kind: str
    epochs: int
    seconds: float


def schedule(count: int, seed: int) -> list[Event]:
    """Every kind about equally often. A rank or a loader is only there once training is under way."""
    dice = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    dice.shuffle(kinds)
    return [
        Event(kind, dice.choice((1, 2) if kind in KINDS[:2] else (0, 0, 1)), round(dice.uniform(0, 3), 2)) for kind in kinds
    ]


class Broken(AssertionError):
    """An invariant did not hold."""


def hold(condition: object, invariant: str, message: str) -> None:
    if not condition:
        raise Broken(f"{invariant}: {message}")


class Run:
    """One training job, started as often as it takes. `model_dir` and the checkpoints survive its processes."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        folder.mkdir(parents=True)
        self.model_dir, self.work = folder / "model", folder / "model.run"
        flags = [part for name, value in FLAGS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        name = f"faults-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        where = ["--data", str(data), "--model-dir", str(self.model_dir), "--job-name", name]
        self._command = [sys.executable, "-m", "containers.train", *where, *flags]

    def start(self) -> "Started":
        self.starts += 1
        return Started(self._command, self.folder / f"log-{self.starts:03d}")

    def check(self, event: Event | None, code: int, finished: bool) -> None:
        """I2, I3 and I4, after the processes have ended."""
        failure = self.work / "output" / "failure"
        if event is None or finished:
            hold(code == 0, "I2", f"exit code {code} of an undisturbed end; {_text(failure)}")
        elif event.kind == "ask it to stop":
            hold(code in (0, 75), "I2", f"exit code {code} after SIGTERM; {_text(failure)}")
        elif event.kind == "kill the first process":
            hold(code == -signal.SIGKILL, "I2", f"exit code {code}")
        else:
            hold(code in (1, 75), "I2", f"exit code {code} after: {event.kind}; {_text(failure)}")
            told = failure.read_bytes() if failure.exists() else b""
            hold(0 < len(told) <= 1024 and told.decode("utf-8")[0].isalpha(), "I2", f"failure file {told!r}")
        if (self.model_dir / manifest.MANIFEST_FILE).exists():
            manifest.verify(self.model_dir, manifest.read(self.model_dir))
        latest = self.work / "checkpoints" / "latest.json"
        if latest.exists():
            named = json.loads(latest.read_text())
            path = latest.with_name(named["file"])
            hold(path.exists() and manifest.sha256(path) == named["sha256"], "I4", f"{named} is not what is there")

    def weights(self) -> str:
        return manifest.read(self.model_dir).files[manifest.WEIGHTS_FILE]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else "no failure file"


class Started:
    """The processes of one start."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        self._family: set[psutil.Process] = {psutil.Process(self.process.pid)}

    def logged(self, event: str) -> int:
        return self._log.read_bytes().count(f'"event": "{event}"'.encode())

    def family(self) -> set[psutil.Process]:
        """Every process of this start that was ever seen."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self._family

    def reach(self, event: Event) -> None:
        """Wait for the event's moment, or for the end."""
        limit = time.monotonic() + DEADLINE
        while event.epochs and self.logged("epoch") < event.epochs and self.process.poll() is None:
            self.family()
            hold(time.monotonic() < limit, "I1", f"no epoch in {DEADLINE:.0f} s:\n{self.tail()}")
            time.sleep(0.02)
        due = time.monotonic() + event.seconds
        while time.monotonic() < due and self.process.poll() is None:
            self.family()
            time.sleep(0.02)

    def cause(self, event: Event) -> str:
        """Do it; returns what was hit (a part that is not there yet, or no more, leaves its parent)."""
        if event.kind == "ask it to stop":
            self.process.send_signal(signal.SIGTERM)
            return "first process, SIGTERM"
        found = {"first process": [psutil.Process(self.process.pid)], "launcher": [], "rank": [], "loader": []}
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(process.cmdline())
                if "containers.train.launch" in command:
                    found["launcher"].append(process)
                elif "containers.train.worker" in command:
                    parent = " ".join((process.parent() or process).cmdline())
                    found["loader" if "containers.train.worker" in parent else "rank"].append(process)
        order = ["loader", "rank", "launcher", "first process"]
        first = next(index for index, name in enumerate(order) if event.kind.endswith(name))
        name = next(name for name in order[first:] if found[name])
        with contextlib.suppress(psutil.NoSuchProcess):
            found[name][0].kill()
        return name

    def end(self) -> int:
        """I1. The exit code."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Broken(f"I1: did not end:\n{self.tail()}") from None
        _, alive = psutil.wait_procs(self.family(), timeout=60)
        alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        hold(not alive, "I1", f"left behind: {[process.pid for process in alive]}")
        return code

    def kill(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def undisturbed(data: Path, folder: Path) -> str:
    """The SHA-256 of the weights that a run gives which nobody disturbs."""
    run = Run(data, folder)
    started = run.start()
    run.check(None, started.end(), finished=True)
    return run.weights()


def disturb(data: Path, folder: Path, events: list[Event], expected: str) -> list[str]:
    """Let every event happen, over as many runs as that takes; each run ends with the `expected` weights. What was hit."""
    hits, waiting, number = [], list(events), 0
    while waiting:
        number += 1
        run = Run(data, folder / f"run-{number:03d}")
        finished = False
        while not finished:
            event = waiting[0] if waiting else None
            started = run.start()
            try:
                hit = None
                if event is not None:
                    started.reach(event)
                    hit = started.cause(event) if started.process.poll() is None else None
                code = started.end()
            finally:
                started.kill()
            finished = started.logged("result") > 0 and code == 0
            if hit is not None and event is not None:
                hits.append(f"{event.kind} (hit: {hit}) -> exit code {code}")
                waiting.pop(0)
                actual = event if hit in event.kind or "SIGTERM" in hit else Event(f"kill the {hit}", 0, 0)
                run.check(actual, code, finished)
            else:
                run.check(None, code, finished)
        hold(run.weights() == expected, "I5", f"run {number} ended with other weights, after {hits}")
    return hits
