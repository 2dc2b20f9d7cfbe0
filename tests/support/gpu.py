"""Servers on a GPU: as a user starts them, and with faults on demand."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests

from containers.core.manifest import HALF_TOLERANCE
from tests.support.gpu_server import VARIABLE, Script
from tests.support.server import Server, serving
from tests.support.slow_model import stopped, waiting


@contextmanager
def gpu_serving(model_dir: Path, log: Path, environ: dict[str, str] | None = None, **settings: Any) -> Iterator[Server]:
    """`python -m containers.serve` on the GPU, everything else left to it unless a setting says otherwise."""
    seen = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"), **(environ or {})}
    wanted = {"device": "cuda", "engine": "auto", "fronts": 2, "model_processes": 0, "stuck_after_seconds": 600, **settings}
    with serving(model_dir, log, seen, **wanted) as server:
        yield server


class Faulty:
    """A server and the script of its faults (tests/support/gpu_server.py)."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server, self._path = server, path
        self.graphs = "auto"

    def play(self, **changes: Any) -> None:
        Script(**changes).write(self._path)


@contextmanager
def faulty(model_dir: Path, folder: Path, script: Script | None = None, **settings: Any) -> Iterator[Faulty]:
    path = folder / "script.json"
    (script or Script()).write(path)
    program = "tests.support.gpu_server"
    with gpu_serving(model_dir, folder / "log", {VARIABLE: str(path)}, program=program, **settings) as server:
        yield Faulty(server, path)


def together(server: Server, pool: ThreadPoolExecutor, bodies: Sequence[bytes]) -> list[Future]:
    """Requests that all wait before the model looks: it is stopped until they do."""
    (model,) = server.processes("kennel-model")
    with stopped(model):
        return waiting(server, pool, bodies)


def probabilities(answer: requests.Response) -> np.ndarray:
    """Of the one photo that was asked about, by class name."""
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["predictions"]
    return np.array([value for _, value in sorted(prediction["probabilities"].items())], np.float32)


def assert_close(answers: np.ndarray, expected: np.ndarray, tolerance: float = HALF_TOLERANCE) -> None:
    """Within what half precision is allowed, and the same class wherever `expected` is sure of it."""
    np.testing.assert_allclose(answers, expected, rtol=0, atol=tolerance)
    first, second = np.sort(expected)[:, ::-1][:, :2].T
    sure = first - second > 2 * tolerance
    np.testing.assert_array_equal(answers[sure].argmax(1), expected[sure].argmax(1))
