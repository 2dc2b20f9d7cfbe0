"""A model process as slow as a test wants it to be: stopped by SIGSTOP; and what the server tells of its photos meanwhile."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
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
        with suppress(psutil.NoSuchProcess):
            process.resume()


def gauge(server: Server, name: str) -> float:
    return gauge_at(server.url, name)


def gauge_at(url: str, name: str) -> float:
    text = requests.get(f"{url}/metrics", timeout=60).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


def in_flight(server: Server, count: int, sent: Sequence[Future[requests.Response]] = ()) -> None:
    in_flight_at(server.url, count, sent)


def in_flight_at(url: str, count: int, sent: Sequence[Future[requests.Response]] = ()) -> None:
    """Until the server at `url` has so many photos decoded that are not answered. Fails at once where one of the requests
    `sent` has an answer already: so many will never be there.
    """

    def waits() -> bool:
        for answer in [future.result() for future in sent if future.done()]:
            raise AssertionError(f"answered before {count} photos waited: {answer.status_code} {answer.text[:300]}")
        return gauge_at(url, "kennel_photos_submitted") == count

    until(waits, f"{count} photos wait for the model")


def waiting(
    server: Server, pool: ThreadPoolExecutor, bodies: Sequence[bytes], before: int = 0
) -> list[Future[requests.Response]]:
    """Requests that are all decoded, and wait for a model that stands still, as do `before` others."""
    sent = [pool.submit(server.invoke, body) for body in bodies]
    in_flight(server, before + len(bodies), sent)
    return sent
