"""Events for a running server: its model processes and its HTTP processes are killed or stopped while requests come in, the
clock jumps under it, and a copy of its model is damaged before another server starts on it.
"""

import contextlib
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from containers.core import manifest
from containers.serve.errors import DeadlineExceeded, ModelFailed, NotReady, Overloaded
from tests.faults import invariants
from tests.faults.clock import Clock
from tests.faults.invariants import hold
from tests.support import artifacts
from tests.support.server import Server

KINDS = (
    "kill a model process",
    "stop a model process",
    "kill an HTTP process",
    "stop an HTTP process",
    "the clock jumps",
    "damage the model directory",
)
_MEANT = {(error.status, error.__name__) for error in (ModelFailed, Overloaded, NotReady, DeadlineExceeded)}
"""What a server that has lost a part of itself may answer."""
_PREFIX = {"model": "kennel-model", "HTTP": "kennel-front"}
READY_SECONDS = 300.0  # beside four other lanes
_CLOCK_SECONDS = 4.0


def schedule(count: int, seed: int) -> list[str]:
    return invariants.shuffled(KINDS, count, random.Random(seed))


def meant(answer: requests.Response) -> bool:
    """An error that says in JSON what it is."""
    try:
        return (answer.status_code, answer.json()["error"]["kind"]) in _MEANT
    except (ValueError, KeyError, TypeError):
        return False


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
            time.sleep(0.1)

    def first(self) -> None:
        """Wait until one request was answered."""
        limit = time.monotonic() + READY_SECONDS
        while not self.answers:
            hold(time.monotonic() < limit and self.is_alive(), "I6", "no request was answered before anything happened")
            time.sleep(0.01)

    def halt(self) -> None:
        self._halt.set()
        self.join(120)
        hold(not self.is_alive(), "I6", "a request got no answer in two minutes")


class Serving:
    """One server that all events happen to. Call `close` at the end."""

    def __init__(self, folder: Path, seed: int, done: Callable[[str], None], clock: Clock) -> None:
        """`done` is told of each event and what callers saw. The server tells the time by `clock`."""
        self._folder, self._dice, self._done, self._clock = folder, random.Random(seed), done, clock
        self._model = folder / "model"
        artifacts.save(self._model)
        self._server = Server(self._model, folder / "server.log", clock.environ)
        self._server.await_ready(patience=READY_SECONDS)
        self._photo = artifacts.photo(1, (200, 150), format="JPEG")
        self._before = self._server.invoke(self._photo).json()

    def disturb(self, kinds: list[str]) -> None:
        for kind in kinds:
            if kind.startswith("damage"):
                self._done(f"{kind} -> {self._damaged_model()}")
            else:
                self._done(f"{kind} -> {self._under_requests(kind)}")
        hold(self._server.stop() == 0, "I1", "the server did not end with exit code 0")

    def close(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            invariants.kill(psutil.Process(self._server.process.pid).children(recursive=True))
        self._server.process.kill()
        self._server.process.wait()

    def _under_requests(self, kind: str) -> str:
        """I1 and I6 for an event that happens while requests come in."""
        server, caller = self._server, Caller(self._server, self._photo)
        caller.start()
        caller.first()
        if kind.startswith("the clock"):
            self._jump()
        else:
            self._lose(kind)
        caller.halt()
        good = [answer for answer in caller.answers if answer.status_code == 200]
        wrong = [answer for answer in caller.answers if answer.status_code != 200 and not meant(answer)]
        hold(not wrong, "I6", f"answered {[(answer.status_code, answer.text[:200]) for answer in wrong[:3]]} after: {kind}")
        hold(good, "I6", f"no request was answered with 200 around: {kind}")
        hold(all(answer.json() == self._before for answer in good), "I6", f"another answer after: {kind}")
        again = server.invoke(self._photo)
        hold(again.status_code == 200, "I6", f"answered {again.status_code} once recovered from: {kind}")
        hold(again.json() == self._before, "I6", f"another answer once recovered from: {kind}")
        if kind.startswith("the clock"):
            hold(
                len(good) == len(caller.answers) and not caller.refused, "I8", f"{len(caller.answers) - len(good)} not answered"
            )
        return f"{len(good)} answered, {len(caller.answers) - len(good)} refused, {caller.refused} cut off"

    def _lose(self, kind: str) -> None:
        prefix = next(prefix for word, prefix in _PREFIX.items() if word in kind)
        before = self._server.processes(prefix)
        victim = self._dice.choice(before)
        victim.send_signal(signal.SIGSTOP if kind.startswith("stop") else signal.SIGKILL)
        limit = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(requests.exceptions.RequestException):
                now = self._server.processes(prefix)  # replaced: until its parent knows of the loss, /ping may still say 200
                if victim not in now and len(now) >= len(before) and self._server.ping(timeout=10) == 200:
                    return
            hold(time.monotonic() < limit, "I6", f"not ready again within {READY_SECONDS:.0f} s after: {kind}")
            time.sleep(0.1)

    def _jump(self) -> None:
        """I8: nobody is replaced for it."""
        before = {process.pid for process in psutil.Process(self._server.process.pid).children(recursive=True)}
        self._clock.jump(self._dice.choice((86_400, -3_600, 7 * 86_400, -86_400, 90)))
        time.sleep(_CLOCK_SECONDS)
        after = {process.pid for process in psutil.Process(self._server.process.pid).children(recursive=True)}
        hold(before == after, "I8", "processes were replaced when the clock jumped")

    def _damaged_model(self) -> str:
        """I3: a server on a copy of which one file is torn or altered names it and ends."""
        copy = shutil.copytree(self._model, self._folder / f"model-{time.monotonic_ns()}")
        name = self._dice.choice((manifest.MANIFEST_FILE, manifest.WEIGHTS_FILE, manifest.GOLDEN_FILE))
        data = bytearray((copy / name).read_bytes())
        place = self._dice.randrange(len(data))
        torn = (
            self._dice.random() < 0.5 or name == manifest.MANIFEST_FILE
        )  # JSON has letters that may be others: a torn one is none
        if torn:
            data = data[:place]
        else:
            data[place] ^= 1 << self._dice.randrange(8)
        (copy / name).write_bytes(data)
        log = self._folder / "damaged.log"
        server = Server(copy, log)
        try:
            code = server.process.wait(READY_SECONDS)
        finally:
            server.process.kill()
            server.process.wait()
            shutil.rmtree(copy)
        lines = [line for line in log.read_text().splitlines() if line.startswith("kennel serve: ArtifactError: ")]
        hold(code == 3 and len(lines) == 1 and name in lines[0], "I3", f"exit code {code} with a damaged {name}: {lines}")
        return f"{name} {'torn' if torn else 'altered'}: refused by name"
