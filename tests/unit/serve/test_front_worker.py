"""gunicorn with our worker and an application that misbehaves, as Kennel's never should."""

import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack

import pytest
import requests
from gunicorn.config import Config

from containers.serve.front_worker import FrontWorker
from tests.support.server import ROOT, free_port, until


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory):
    """Port, and the file that gunicorn logs to."""
    port, log = free_port(), tmp_path_factory.mktemp("front") / "log"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--worker-class",
        "containers.serve.front_worker.FrontWorker",
        "--threads",
        "4",
    ]
    command += ["--bind", f"127.0.0.1:{port}", "--keep-alive", "75", "tests.support.failing_app:app"]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        until(lambda: "Booting worker" in log.read_text(), "gunicorn runs")
        yield port, log
    finally:
        process.terminate()
        process.wait(60)


def everything(port: int, path: str) -> bytes:
    """All that comes on a connection until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return connection.makefile("rb").read()


def test_an_application_that_fails_within_its_answer_breaks_it_off_and_no_second_one_follows(front):
    port, log = front
    received = everything(port, "/within")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"half"
    assert "the application failed within its answer" in log.read_text()
    assert "ValueError: after the head" in log.read_text()
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=60).text == "halfdone"


def test_a_ping_that_finds_no_ping_thread_takes_any_other(front):
    """Four clients that do not read their answers would otherwise keep every health check waiting."""
    port, _ = front
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(4)]
        for connection in slow:
            connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Waits: 1\r\n\r\n")
        until(lambda: requests.get(f"http://127.0.0.1:{port}/waiting", timeout=60).text.strip() == "4", "each has a thread")
        assert requests.get(f"http://127.0.0.1:{port}/ping", timeout=60).text == "halfdone"
        for connection in slow:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # they are answered later
                connection.recv(1)
            connection.settimeout(60)
        requests.get(f"http://127.0.0.1:{port}/release", timeout=60)
        assert [connection.recv(1) for connection in slow] == [b"H"] * 4


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


def test_headers_that_are_here_and_that_no_thread_has_read_are_not_called_slow():
    """On a busy machine a thread may have to wait for its turn longer than a client has."""
    worker = FrontWorker.__new__(FrontWorker)
    worker.alive, worker.pending_conns, worker.cfg, worker._held, worker._discarding = True, deque(), Config(), set(), {}
    with ExitStack() as stack:
        ends = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        worker._reading = {Connection(server): time.monotonic() - 3600 for server, _ in ends}
        (_, here), (_, slow) = ends
        here.sendall(b"GET / HTTP/1.1")
        worker.murder_pending()
        assert slow.recv(1) == b""  # hung up on
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.recv(1)


def test_an_application_that_fails_before_its_answer_is_500(front):
    port, _ = front
    assert everything(port, "/before").startswith(b"HTTP/1.1 500 ")
