"""A model process as slow as a test wants it to be: stopped by SIGSTOP; and what the server tells of its photos meanwhile."""

from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import requests

from tests.support.server import UNHURRIED, Server, serving, until

SLOTS = 4
"""Of a server that is to be filled."""


def few_slots(model_dir: Path, log: Path) -> AbstractContextManager[Server]:
    """A server with SLOTS of them in one front, and a model process that may be stopped for long."""
    return serving(model_dir, log, fronts=1, slots=SLOTS, max_batch=2, **UNHURRIED)


def model(server: Server) -> psutil.Process:
    return until(lambda: server.processes("kennel-model"), "a model process")[0]


def http_side(supervisor: int) -> psutil.Process:
    """Of the server with this pid. While it is stopped its fronts answer, and the port stays open after SIGTERM."""
    return next(child for child in psutil.Process(supervisor).children() if child.name() == "kennel-http")


def was_sent(process: psutil.Process, number: int) -> bool:
    """Whether a signal waits for a process that is stopped."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return bool(int(next(line for line in lines if line.startswith("ShdPnd:")).split()[1], 16) >> (number - 1) & 1)


@contextmanager
def stopped(process: psutil.Process):
    process.suspend()
    try:
        yield
    finally:
        if process.is_running():
            process.resume()


def gauge(server: Server, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=60).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def in_flight(server: Server, count: int) -> None:
    until(lambda: gauge(server, "kennel_photos_submitted") == count, f"{count} photos submitted")  # decoded, not only accepted
