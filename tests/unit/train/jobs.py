"""Photos to train on and jobs as real processes, for the tests of everything before the worker."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.server import free_port as free_port

SECONDS = 240.0
"""A deadline for machines under load, not an expectation."""
STOP_SECONDS = 20.0
"""From SIGTERM to the end; tiny workers need a fraction of it."""


def photo(path: Path, seed: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, noise).convert(mode).save(path)
    return path


def photos(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 8) -> Path:
    for number, name in enumerate(classes):
        for index in range(each):
            photo(root / name / f"{index:03}.png", seed=1000 * number + index)
    return root


_TWO_GPUS = """
import sys
from containers.core import host

host.host_shows_gpu = lambda *_: True
if not {"-c", "containers.train.launch"}.isdisjoint(sys.orig_argv):  # where torch is asked
    import torch

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    torch.cuda.get_device_capability = lambda _: (7, 5)
    torch.cuda.get_device_name = lambda _: "Tesla T4"
    torch.cuda.get_arch_list = lambda: ["sm_75"]
"""


def two_gpus(folder: Path) -> str:
    """PYTHONPATH of processes on a host with two T4s, as far as is looked before a worker starts."""
    return customized(folder, _TWO_GPUS)


def customized(folder: Path, program: str) -> str:
    """PYTHONPATH of processes that run `program` before anything else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(program)
    return f"{folder}:."


def in_the_launcher(folder: Path, program: str) -> str:
    """The same, of a job's launcher only."""
    lines = "".join(f"    {line}\n" for line in program.strip().splitlines())
    return customized(folder, f'import sys\n\nif "containers.train.launch" in sys.orig_argv:\n{lines}')


def in_a_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})


def result(process: subprocess.Popen[str]) -> Any:
    out, _ = process.communicate(timeout=SECONDS)
    return json.loads(out.splitlines()[-1])


class Job:
    """One host's job. Output goes to files, so that nothing blocks; `wait_for` follows it."""

    module = "tests.unit.train.start_job"

    def __init__(self, folder: Path, *arguments: object, how: str = "work", **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        environment = os.environ | {"TINY": how, "OMP_NUM_THREADS": "1", "PYTHONPATH": ".", "TMPDIR": str(folder)} | environ
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, *map(str, arguments)],
                stdout=out,
                stderr=err,
                env=environment,
            )

    @classmethod
    def with_flags(cls, folder: Path, data: Path, *flags: object, how: str = "work", **environ: str) -> "Job":
        return cls(folder, "--data", data, "--model-dir", folder / "model", "--device", "cpu", *flags, how=how, **environ)

    @property
    def out(self) -> str:
        return self._out.read_text() + self._err.read_text()

    @property
    def output(self) -> Path:
        return self.folder / "model.run/output"

    @property
    def failure(self) -> str | None:
        path = self.output / "failure"
        return path.read_text() if path.exists() else None

    def ranks(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted(self.output.glob("rank*.json"))]

    def wait_for(self, text: str, seconds: float = SECONDS) -> "Job":
        return self.wait_until(lambda: text in self.out, text, seconds)

    def wait_until(self, condition: Callable[[], bool], what: str = "it", seconds: float = SECONDS) -> "Job":
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {what!r}\n{self.out}"
            assert time.monotonic() < deadline, f"no {what!r} within {seconds} s\n{self.out}"
            time.sleep(0.02)
        return self

    def stop(self) -> "Job":
        self.process.send_signal(signal.SIGTERM)
        return self

    def wait(self, seconds: float = SECONDS) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s\n{self.out}") from None

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its children follow: launch and workers are told when their parent dies
        self.process.wait()
