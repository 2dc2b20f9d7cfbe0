"""Clients that are slow to take a large answer, or do not take it at all."""

import base64
import json
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support import artifacts
from tests.support.artifacts import photo
from tests.support.scripted import scripted
from tests.support.server import Server, until

PHOTOS, CLASSES = 512, tuple(f"{number:04d} " + "a long name " * 16 for number in range(64))
LINE = json.dumps({"b64": base64.b64encode(photo(1)).decode()}) + "\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """Whose answer to a large batch is more than all the buffers between it and a client hold."""
    folder: Path = tmp_path_factory.mktemp("server")
    artifacts.save(folder / "model", class_names=CLASSES)
    with scripted(folder / "model", folder) as engine:
        yield engine.server


@contextmanager
def asked(server: Server):
    """A connection on which a large answer waits to be read. The buffer of the client's side is small."""
    body = LINE.encode() * PHOTOS
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/jsonlines\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head.encode() + body)
        yield connection


def holds(front: psutil.Process, client: int) -> bool:
    """Whether it has a connection open to this port."""
    return client in {connection.raddr.port for connection in front.net_connections("tcp") if connection.raddr}


def announced(received: bytes) -> int:
    """Bytes of the whole answer, head included."""
    head, _, _ = received.partition(b"\r\n\r\n")
    return len(head) + 4 + int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_a_large_answer(server: Server):
    with asked(server) as connection:
        received = bytearray(connection.recv(1 << 16))
        whole = announced(received)
        assert whole > 6_000_000
        for _ in range(16):  # longer than the ten seconds for which a client may take nothing
            time.sleep(1)
            received += connection.recv(1 << 16)
        while len(received) < whole and (part := connection.recv(1 << 20)):
            received += part
    assert len(received) == whole
    lines = received.partition(b"\r\n\r\n")[2].splitlines()
    assert ["class" in json.loads(line) for line in lines] == [True] * PHOTOS


@pytest.mark.slow
def test_a_client_that_takes_nothing_is_hung_up_on_without_a_word_of_it_in_the_log(server: Server):
    before = len(server.events("request"))
    with asked(server) as connection:
        until(lambda: len(server.events("request")) > before, "an answer is under way")
        (front,), port = server.processes("kennel-front"), connection.getsockname()[1]
        until(lambda: not holds(front, port), "it was hung up on")  # not by a word to the client, whose buffer is full
        received = bytearray()
        while part := connection.recv(1 << 20):
            received += part
        assert len(received) < announced(received)
    assert "Traceback" not in server.log.read_text()


@contextmanager
def read_slowly(connections: list[socket.socket]):
    """Twice as fast as a client must be that is not hung up on, which is minutes for each answer."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1):
            for connection in list(connections):
                with suppress(OSError):  # nothing is there yet
                    connection.recv(1 << 16, socket.MSG_DONTWAIT)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


@pytest.mark.slow
def test_slow_readers_of_large_answers_leave_threads_for_pings_and_their_places_come_back(server: Server, tmp_path: Path):
    """20 threads, 12 of them for requests. Twice: of those whose client went away in the middle none is lost."""
    with scripted(server.model_dir, tmp_path, slots=4) as engine:
        small = engine.server
        for _ in range(2):
            until(lambda: small.invoke(photo(1)).status_code == 200, "a request finds a place")
            before = len(small.events("request"))
            slow: list[socket.socket] = []
            with ExitStack() as stack, read_slowly(slow):
                for number in range(20):
                    slow.append(stack.enter_context(asked(small)))
                    until(lambda seen=before + number: len(small.events("request")) > seen, "it is answered")
                assert small.ping(timeout=30) == 200
                statuses = Counter(event["status"] for event in small.events("request")[before:])
                assert statuses == {200: 12, 503: 8}
                ports = [connection.getsockname()[1] for connection in slow]
            (front,) = small.processes("kennel-front")
            until(lambda front=front, ports=ports: not any(holds(front, port) for port in ports), "who went away is let go")
