"""What goes out on a connection, byte by byte. What comes of it in a server is in tests/contract/test_serving_readers.py."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi

from containers.serve import response
from containers.serve.response import Response
from tests.support.server import until

BODY = b'{"predictions": []}'


@dataclass
class Request:
    method: str = "POST"
    version: tuple[int, int] = (1, 1)
    closes: bool = False

    def should_close(self) -> bool:
        return self.closes


class Connection:
    """`packets` is what each call to it sent."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.settimeout = lambda seconds: None

    def send(self, data: bytes) -> int:
        self.packets.append(bytes(data))
        return len(data)

    sendall = send


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch):
    monkeypatch.setattr("gunicorn.util.http_date", lambda timestamp=None: "Thu, 26 Nov 2026 22:00:00 GMT")
    response._date.cache_clear()
    yield
    response._date.cache_clear()


def packets(kind: type[wsgi.Response], request: Request, parts: list[bytes], length: int | None) -> list[bytes]:
    """Of an answer whose body comes in these `parts` and was announced with this `length`."""
    connection = Connection()
    answer = kind(request, connection, Config())
    announced = [] if length is None else [("Content-Length", str(length))]
    answer.start_response("200 OK", [("Content-Type", "application/json"), *announced])
    for part in parts:
        answer.write(part)
    answer.close()
    return connection.packets


def test_an_answer_whose_body_is_at_hand_is_one_packet():
    assert packets(Response, Request(), [BODY], len(BODY)) == [
        b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: Thu, 26 Nov 2026 22:00:00 GMT\r\nConnection: keep-alive\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    ]


@pytest.mark.parametrize(
    ("request_", "parts", "length"),
    [
        (Request(), [BODY], len(BODY)),
        (Request(closes=True), [BODY], len(BODY)),
        (Request(version=(1, 0), closes=True), [BODY], len(BODY)),
        (Request(), [BODY[:5], BODY[5:]], len(BODY)),
        (Request(), [BODY, b"more than was said"], len(BODY)),
        (Request(), [BODY + b"more than was said"], len(BODY)),
        (Request(), [BODY], None),
        (Request(version=(1, 0), closes=True), [BODY], None),
        (Request("HEAD"), [BODY], len(BODY)),
        (Request(), [], 0),
        (Request(), [b""], 0),
    ],
    ids=["whole", "closes", "1.0", "in two", "then more", "too long", "chunked", "1.0 no length", "HEAD", "none", "empty"],
)
def test_whatever_its_form_the_bytes_are_gunicorns_own(request_: Request, parts: list[bytes], length: int | None):
    ours, theirs = (b"".join(packets(kind, request_, parts, length)) for kind in (Response, wsgi.Response))
    assert ours == theirs


@contextmanager
def client(read: Callable[[socket.socket], bool]) -> Iterator[socket.socket]:
    """The server's end of a TCP connection with small buffers, on whose other end `read` is called while it says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            reader = threading.Thread(target=_go_on, args=(read, theirs), daemon=True)
            reader.start()
            try:
                yield ours
            finally:
                ours.close()
                with suppress(OSError):
                    theirs.shutdown(socket.SHUT_RDWR)
                reader.join(60)


def _go_on(read: Callable[[socket.socket], bool], connection: socket.socket) -> None:
    with suppress(OSError):
        while read(connection):
            pass


def answer_to(connection: socket.socket, size: int) -> None:
    answer = Response(Request(), connection, Config())
    answer.start_response("200 OK", [("Content-Length", str(size))])
    answer.write(bytes(size))


def paced(received: list[int], pause: float) -> Callable[[socket.socket], bool]:
    """Reads 8 KB at a time, and keeps the numbers of bytes."""

    def read(connection: socket.socket) -> bool:
        time.sleep(pause)
        received.append(len(connection.recv(1 << 13)))
        return received[-1] > 0

    return read


def test_a_client_that_takes_nothing_is_hung_up_on_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(response, "_READER_SECONDS", 0.3)
    with client(lambda connection: False) as ours:
        began = time.monotonic()
        with pytest.raises(BrokenPipeError, match="does not take its answer"):
            answer_to(ours, 1 << 22)
        assert time.monotonic() - began >= 0.3


def test_a_client_that_goes_on_reading_gets_all_of_it_though_that_takes_longer_than_it_may_take_nothing(monkeypatch):
    monkeypatch.setattr(response, "_READER_SECONDS", 2.0)
    received: list[int] = []
    with client(paced(received, 0.025)) as ours:
        began = time.monotonic()
        answer_to(ours, 1_500_000)
        assert time.monotonic() - began > 2.0
        ours.shutdown(socket.SHUT_WR)
        until(lambda: received[-1:] == [0], "it has seen the end")
    assert sum(received) > 1_500_000


@pytest.mark.parametrize(("queued", "taken"), [((900, 500, 100), True), ((900, 500, 500), False)], ids=["shrinks", "stays"])
def test_what_the_kernel_still_holds_becoming_less_is_reading_too(monkeypatch, queued: tuple[int, ...], taken: bool):
    """The socket takes more only once a good part of the kernel's buffer is empty."""
    waiting = iter(queued)
    monkeypatch.setattr(response.fcntl, "ioctl", lambda *_: struct.pack("i", next(waiting)))

    class Full(Connection):
        def send(self, data: bytes) -> int:
            if len(self.packets) == 1 and waiting.__length_hint__():
                raise TimeoutError
            return super().send(data[:1000])

    connection = Full()
    if taken:
        response._send(connection, bytes(3000))
        assert connection.packets == [bytes(1000)] * 3
    else:
        with pytest.raises(BrokenPipeError, match="does not take its answer"):
            response._send(connection, bytes(3000))


def test_a_client_that_reads_too_slowly_over_all_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(response, "_READER_SECONDS", 2.0)
    monkeypatch.setattr(response, "_SLOWEST_READER", 1 << 22)
    received: list[int] = []
    with client(paced(received, 0.05)) as ours, pytest.raises(BrokenPipeError, match="too slowly"):
        answer_to(ours, 1 << 22)
    assert sum(received) > 0
