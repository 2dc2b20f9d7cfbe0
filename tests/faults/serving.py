"""Events for a running server: its model processes and its HTTP processes are killed or stopped while requests come in."""

import contextlib
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import requests

from tests.faults.training import hold
from tests.support import artifacts
from tests.support.server import Server

KINDS = ("kill a model process", "stop a model process", "kill an HTTP process")
_PREFIX = {"model": "kennel-model", "HTTP": "kennel-front"}
READY_SECONDS = 180.0


def schedule(count: int, seed: int) -> list[str]:
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    random.Random(seed).shuffle(kinds)
    return kinds


class Caller(threading.Thread):
    """Sends one request after the other until it is told to stop, and keeps every outcome."""

    def __init__(self, server: Server, photo: bytes) -> None:
        super().__init__(daemon=True)
        self._server, self._photo, self._halt = server, photo, threading.Event()
        self.answers: list[requests.Response] = []
        self.refused = 0

    def run(self) -> None:
        while not self._halt.is_set():
            try:
                self.answers.append(self._server.invoke(self._photo))
            except requests.exceptions.ConnectionError:  # inside the process that was killed
                self.refused += 1
            time.sleep(0.02)

    def halt(self) -> None:
        self._halt.set()
        self.join(120)
        hold(not self.is_alive(), "I6", "a request got no answer in two minutes")


def disturb(model_dir: Path, folder: Path, kinds: list[str]) -> list[str]:
    """Let each event happen to one server; I1 and I6 after each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(model_dir, folder / "server.log")
    hits = []
    try:
        server.await_ready()
        photo = artifacts.photo(1, (200, 150), format="JPEG")
        before = server.invoke(photo).json()
        for kind in kinds:
            caller = Caller(server, photo)
            caller.start()
            victim = _victim(server, kind)
            victim.send_signal(signal.SIGSTOP if kind.startswith("stop") else signal.SIGKILL)
            _recovered(server, victim)
            caller.halt()
            wrong = sorted({a.status_code for a in caller.answers} - {200, 500, 503, 504})
            hold(not wrong, "I6", f"answered with {wrong} after: {kind}")
            hold(all(a.json() == before for a in caller.answers if a.status_code == 200), "I6", f"another answer after: {kind}")
            hold(server.invoke(photo).json() == before, "I6", f"another answer once recovered from: {kind}")
            good = sum(a.status_code == 200 for a in caller.answers)
            hits.append(f"{kind} -> {good} answered, {len(caller.answers) - good} refused, {caller.refused} cut off")
        hold(server.stop() == 0, "I1", "the server did not end with exit code 0")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(server.process.pid).children(recursive=True):
                process.kill()
        server.process.kill()
        server.process.wait()
    return hits


def _victim(server: Server, kind: str) -> psutil.Process:
    prefix = next(prefix for word, prefix in _PREFIX.items() if word in kind)
    return server.processes(prefix)[0]


def _recovered(server: Server, victim: psutil.Process) -> None:
    """The victim is gone, and /ping says 200."""
    limit = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(requests.exceptions.RequestException):
            gone = not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE
            if gone and server.ping(timeout=10) == 200:
                return
        hold(time.monotonic() < limit, "I6", f"not ready again within {READY_SECONDS:.0f} s")
        time.sleep(0.1)
