"""gunicorn with our worker and an application that misbehaves, as Kennel's never should."""

import socket
import subprocess
import sys

import pytest
import requests

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


def test_an_application_that_fails_before_its_answer_is_500(front):
    port, _ = front
    assert everything(port, "/before").startswith(b"HTTP/1.1 500 ")
