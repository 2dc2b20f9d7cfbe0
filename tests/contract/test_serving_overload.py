"""What the server does when it has more requests than slots: it refuses at once, cheaply, and answers what it accepted."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.support.artifacts import photo
from tests.support.server import Server
from tests.support.slow_model import SLOTS, few_slots, gauge, model, stopped, waiting
from tests.support.stopwatch import Stopwatch

JPEG = photo(1, format="JPEG")
HEADERS = {
    "Content-Type": "image/jpeg",
    "X-Amzn-SageMaker-Inference-Id": "mine 7",
    "X-Amzn-SageMaker-Custom-Attributes": "a=b",
}


@contextmanager
def filled(server: Server, pool: ThreadPoolExecutor) -> Iterator[Server]:
    """The server with every slot taken; what took them is answered afterwards."""
    with stopped(model(server)):
        accepted = waiting(server, pool, [JPEG] * SLOTS)
        yield server
    assert [future.result().status_code for future in accepted] == [200] * SLOTS


@pytest.fixture
def full(server: Server, pool: ThreadPoolExecutor):
    with filled(server, pool):
        yield server


def test_overload_is_refused_at_once_and_pings_are_answered(full: Server):
    for _ in range(3 * SLOTS):
        watch = Stopwatch()
        refused = full.invoke(JPEG)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["kind"] == "Overloaded"
        assert refused.headers["Retry-After"] == "1"
        assert watch.seconds < 2
        watch = Stopwatch()
        assert full.ping() == 200
        assert watch.seconds < 2


def test_a_refusal_does_not_wait_for_the_body(full: Server):
    with socket.create_connection(("127.0.0.1", full.port), timeout=60) as connection:
        watch = Stopwatch()
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 60000\r\n\r\n"
        )
        assert connection.recv(4096).split()[1] == b"503"
        assert watch.seconds < 5


@pytest.mark.slow
def test_pings_do_not_wait_behind_slow_uploads_that_are_refused(model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor):
    """Of 200 clients that go on with their bodies after a refusal, 20 have a thread, for two seconds each.

    On a server of its own: those that wait still when the test ends would take the places of what the next one sends.
    """
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    over = threading.Event()
    with ExitStack() as stack:
        full = stack.enter_context(filled(stack.enter_context(few_slots(model_dir, tmp_path / "log")), pool))
        before = len(full.events("request"))
        uploads = [stack.enter_context(socket.create_connection(("127.0.0.1", full.port), timeout=60)) for _ in range(200)]

        def upload() -> None:
            while not over.wait(0.05):
                for connection in uploads:
                    with suppress(OSError):  # hung up on
                        connection.sendall(b"x")

        for connection in uploads:
            connection.sendall(head)
        uploader = threading.Thread(target=upload)
        uploader.start()
        try:
            with requests.Session() as session:
                for _ in range(3):  # on one connection: also of those that are kept
                    assert session.get(f"{full.url}/ping", timeout=60).status_code == 200
            assert len(full.events("request")) - before < 200  # others wait still
        finally:
            over.set()
            uploader.join()
        assert full.ping() == 200


def test_a_refusal_has_all_that_an_answer_has(full: Server):
    counted = 'kennel_requests_total{route="/invocations",status="503"}'
    assert full.invoke(JPEG).status_code == 503  # so that there is a count
    before = gauge(full, counted)
    with requests.Session() as session:
        for _ in range(3):  # on one connection, whose bodies must not be taken for requests
            refused = session.post(f"{full.url}/invocations", data=JPEG * 50, headers=HEADERS, timeout=60)
            assert refused.status_code == 503
            assert refused.headers["Content-Type"] == "application/json"
            assert refused.headers["X-Request-Id"] == refused.json()["error"]["request_id"] == "mine7"
            assert refused.headers["X-Amzn-SageMaker-Custom-Attributes"] == "a=b"
    assert gauge(full, counted) == before + 3
    lines = [line for line in full.events("request") if line["request_id"] == "mine7"]
    assert [(line["route"], line["status"], line["error"]) for line in lines] == [("/invocations", 503, "Overloaded")] * 3


def test_a_full_server_still_tells_other_mistakes_and_answers_other_routes(full: Server):
    assert requests.get(f"{full.url}/invocations", timeout=60).status_code == 405
    assert requests.get(f"{full.url}/execution-parameters", timeout=60).status_code == 200
