"""How long a training job takes to end when it is asked to: the whole job, as a user starts it, from SIGTERM to its exit."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.measure import peak_rss_mb
from benchmarks.training.sides import CLASSES, photos


@dataclass(frozen=True)
class Stopped:
    """`rss_mb`: see `measure.peak_rss_mb`."""

    seconds: float
    rss_mb: float


def stop_once(batch_size: int) -> Stopped:
    """ResNet-50 at 224, every layer, AdamW. SIGTERM half a second after an epoch's checkpoint, in the step that follows.

    Raises RuntimeError where the job does not end with exit code 0, a checkpoint of later than that and a model.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos(root / "photos", batch_size, others=CLASSES)
        flags = {
            "data": root / "photos", "model-dir": root / "model", "checkpoint-dir": root / "checkpoints",
            "batch-size": batch_size, "epochs": 1000, "head-epochs": 0, "pretrained": "none", "engines": "none",
            "patience": 0, "learning-rate": 1e-4, "device": "cpu",
        }  # fmt: skip
        command = [sys.executable, "-m", "containers.train", *(f"--{name}={value}" for name, value in flags.items())]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            before = _until(process, root / "checkpoints", 2)
            time.sleep(0.5)
            asked = time.perf_counter()
            rss = peak_rss_mb(process.pid)
            os.kill(process.pid, signal.SIGTERM)
            code = process.wait(120)
            seconds = time.perf_counter() - asked
        newer = _checkpoints(root / "checkpoints") - before
        if code != 0 or not newer or not (root / "model" / "manifest.json").exists():
            raise RuntimeError(f"exit code {code}, {len(newer)} new checkpoints: {(root / 'log').read_text()[-2000:]}")
        return Stopped(seconds, rss)


def _until(process: "subprocess.Popen[bytes]", folder: Path, count: int) -> set[str]:
    """The checkpoints there are, as soon as there are `count` of them."""
    deadline = time.monotonic() + 300
    while len(found := _checkpoints(folder)) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"no {count} checkpoints: exit code {process.poll()}, {(folder.parent / 'log').read_text()[-2000:]}"
            )
        time.sleep(0.02)
    return found


def _checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}
