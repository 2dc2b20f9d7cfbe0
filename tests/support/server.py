"""A real server process on a free port, for tests that speak HTTP to it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0  # seconds; the machine may be busy
UNHURRIED = {"stuck_after_seconds": 600, "request_timeout_seconds": 200, "graceful_timeout_seconds": 100}
"""Settings of a server that stands still because a test wants it to, or because the machine is busy: nothing is given up."""


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE, pause: float = 0.02):
    """Poll until `condition()` is true and return its value; fail with `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        time.sleep(pause)
    return value


class Server:
    """`python -m containers.serve` with its log in `log`. SERVE_ settings are given by name.

    `port` None leaves the choice to the environment. `program` is another module that runs the server, or a program.
    """

    def __init__(
        self,
        model_dir: Path,
        log: Path,
        environ: dict[str, str] | None = None,
        *,
        port: int | None = 0,
        program: str | Path = "containers.serve",
        **settings: object,
    ) -> None:
        self.model_dir, self.log, self._given_port = model_dir, log, port
        wanted = {"fronts": 2, "model_processes": 1, "engine": "eager", **settings}
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SERVE_", "SAGEMAKER_"))}
        env |= {"OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        env |= {f"SERVE_{name.upper()}": str(value) for name, value in wanted.items()} | (environ or {})
        command = [str(program)] if isinstance(program, Path) else [sys.executable, "-m", program]
        command += ["--model-dir", str(model_dir), "--host", "127.0.0.1"]
        command += [] if port is None else ["--port", str(port)]
        with log.open("w") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property  # the log grows
    def port(self) -> int:
        return self._given_port or self.await_event("listening")["port"]

    def events(self, name: str) -> list[dict]:
        """Log lines with this event."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(_parsed, lines) if event.get("event") == name]

    def await_event(self, name: str) -> dict:
        def look():
            assert self.process.poll() is None or self.events(name), f"the server ended:\n{self.log.read_text()}"
            return self.events(name)

        return until(look, f"log line {name!r}")[0]

    def await_ready(self, patience: float = PATIENCE) -> "Server":
        def answered() -> bool:
            try:
                return self.process.poll() is not None or self.ping() == 200
            except requests.ConnectionError:  # a port that was given is not open yet
                return False

        until(answered, "/ping says 200", patience)
        assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
        return self

    def ping(self, timeout: float = PATIENCE) -> int:
        return requests.get(f"{self.url}/ping", timeout=timeout).status_code

    def invoke(self, body: bytes, content_type: str | None = "image/jpeg", timeout: float = PATIENCE, **headers: str):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            sent["Content-Type"] = content_type
        return requests.post(f"{self.url}/invocations", data=body, headers=sent, timeout=timeout)

    def processes(self, prefix: str) -> list[psutil.Process]:
        """Living children whose name starts with `prefix` (kennel-model, kennel-front, kennel-http)."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.name().startswith(prefix) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE)


def _parsed(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:  # a line that is still being written
        return {}


def free_port() -> int:
    """One that nobody listens on now, and that nobody gets who leaves the choice to the kernel."""
    chosen_by_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(max(1024, chosen_by_kernel - 10_000), max(2048, chosen_by_kernel))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def serving(model_dir: Path, log: Path, environ: dict[str, str] | None = None, **settings: Any) -> Iterator[Server]:
    """A server that is ready, ended when the block is left. Arguments are those of Server."""
    server = Server(model_dir, log, environ, **settings)
    try:
        yield server.await_ready()
    finally:
        server.process.kill()
        server.process.wait()
