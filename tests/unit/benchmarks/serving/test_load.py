"""The load generator, against a server whose behaviour is known."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from benchmarks.serving.load import Load, request

SECONDS = 3.0
"""Of a load; a busy machine may stand still for one of them."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: ClassVar[set[bytes]] = set()
    seen = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).bodies.add(body[:5])
        type(self).seen += 1
        answer = b'{"size": %d}' % len(body)
        status = 503 if body.startswith(b"busy!") else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if body.startswith(b"close"):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _Handler.bodies.clear()
        _Handler.seen = 0
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def requests(*starts: bytes) -> list[bytes]:
    return [request("/invocations", start + b"." * 60_000, "image/jpeg") for start in starts]


def test_closed_loop_counts_every_answer_by_status(port):
    result = Load(port, requests(b"aaaaa", b"busy!", b"close")).closed(3, SECONDS)
    good, busy = len(result.seconds[200]), len(result.seconds[503])
    assert set(result.seconds) == {200, 503}
    assert _Handler.bodies == {b"aaaaa", b"busy!", b"close"}
    assert good + busy <= _Handler.seen <= good + busy + 3
    assert result.failures == busy + result.outside.get(503, 0)
    assert _Handler.seen == result.answers
    assert result.rate == good / SECONDS
    assert 0 < result.percentile_ms(0.5) <= result.percentile_ms(0.99) < SECONDS * 1000


def test_the_window_opens_while_the_load_goes_on(port):
    result = Load(port, requests(b"aaaaa")).closed(2, SECONDS, lead=SECONDS)
    assert result.outside[200] > len(result.seconds[200]) / 10
    assert result.answers == _Handler.seen == result.outside[200] + len(result.seconds[200])
    assert result.rate == len(result.seconds[200]) / SECONDS
    late = Load(port, requests(b"aaaaa")).open(rate=20, seconds=2.0, lead=2.0, most=8)
    assert 20 <= late.outside[200] <= 60
    assert late.answers <= 80


def test_open_loop_keeps_its_rate(port):
    result = Load(port, requests(b"aaaaa")).open(rate=20, seconds=4.0, most=8)
    assert 60 <= len(result.seconds[200]) <= 80


def test_a_server_that_hangs_up_is_counted_as_lost():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def hang_up():
            listener.settimeout(0.2)
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.recv(10)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        began = time.monotonic()
        result = Load(listener.getsockname()[1], requests(b"aaaaa")).closed(2, 0.5)
        ended.set()
        thread.join()
    assert set(result.seconds) == {0}
    assert time.monotonic() - began < 30
