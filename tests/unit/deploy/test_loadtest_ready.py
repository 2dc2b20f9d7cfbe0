"""Whether a load test begins, waits or ends at once, asked of small real servers on loopback."""

import argparse
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy import load_generator as load
from deploy import loadtest
from deploy.errors import DeployError, Refused, TimedOut
from tests.support import aws as fake

Answer = int | Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def pinged(*answers: Answer, posted: Callable[[BaseHTTPRequestHandler], None] | None = None) -> Iterator[str]:
    """The address of a server that gives /ping these answers in turn, or does this instead; the last stays."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            answer = 404 if self.path != "/ping" else left.pop(0) if left[1:] else left[0]
            if isinstance(answer, int):
                self.send_response(answer)
                self.end_headers()
            else:
                answer(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            posted(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def hang_up(_: BaseHTTPRequestHandler) -> None:
    """As what listens for a container does while its server starts."""


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def talk_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"[/nonsense]\r\n\r\n")


def be_late(_: BaseHTTPRequestHandler) -> None:
    """As a server whose cores are all busy."""
    time.sleep(1.0)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "dog.jpg"
    path.write_bytes(b"photo")
    return str(path)


def flags(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    loadtest.add_arguments(parser)
    return parser.parse_args(list(given))


def test_a_server_that_still_loads_is_waited_for():
    context = fake.context()
    with pinged(503, 503, 503, 200) as url:
        loadtest.wait_until_ready(f"{url}/invocations", context)
        assert context.clock.monotonic() == 3
        assert "not ready, its model is still loading" in context.console.text
        loadtest.wait_until_ready(f"{url}/invocations", context)  # at once
    assert context.clock.monotonic() == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hang_up, "it hangs up or speaks no HTTP"),
        (reset, "Connection reset by peer"),
        (talk_nonsense, "it hangs up or speaks no HTTP"),
        (be_late, "it does not answer in time"),
    ],
)
def test_so_is_one_that_has_no_good_answer_yet(answer, said, monkeypatch):
    monkeypatch.setattr(load, "ping", partial(load.ping, timeout_seconds=0.3))
    context = fake.context()
    with pinged(answer, answer, 200) as url:
        loadtest.wait_until_ready(f"{url}/invocations", context)
    assert context.clock.monotonic() >= 2
    assert f"/invocations: not ready, {said}, " in context.console.text


@pytest.mark.parametrize("path", ["/models/dogs/invoke", "/invocations", "", "/"])
def test_the_servers_own_ping_is_asked_whatever_is_called(path):
    with pinged(503) as url:
        assert load.ping(url + path) == 503


def test_one_that_never_loads_is_told(photo):
    with pinged(503) as url, pytest.raises(TimedOut, match=r"still loading after 60\d s\n  try: the server's own log says why"):
        loadtest.run(flags("--photo", photo, "--url", f"{url}/invocations"), fake.context())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("http://no-such-host.invalid/invocations", "Errno -"),
        ("http://127.0.0.1:x/invocations", "nonnumeric port"),
        ("http://[::1/invocations", "Invalid IPv6 URL"),
    ],
)
def test_where_no_server_can_be_is_told_at_once(photo, url, why):
    with pytest.raises(Refused, match=rf"nobody answers there .*{why}.*\n  try: start the server, or mend --url"):
        loadtest.run(flags("--photo", photo, "--url", url), fake.context())


def answers(status: int, body: bytes, calls: list[str]) -> Callable[[BaseHTTPRequestHandler], None]:
    def posted(handler: BaseHTTPRequestHandler) -> None:
        calls.append(handler.path)
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(body)

    return posted


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b'{"error": {"kind": "ImageError", "message": "no\\nphoto"}}', "answered 400: no photo"),
        (404, b"<p>\n no \x1b[31m such page </p>", "answered 404: <p> no [31m such page </p>"),
        (404, b'{"error": "elsewhere"}', 'answered 404: {"error": "elsewhere"}'),
        (500, b"", "answered 500: no message"),
        (302, b"x" * 400, f"answered 302: {'x' * 300} …"),
    ],
)
def test_a_request_that_will_never_do_is_sent_once(photo, status, body, said):
    calls: list[str] = []
    with pinged(200, posted=answers(status, body, calls)) as url, pytest.raises(DeployError) as caught:
        loadtest.run(flags("--photo", photo, "--url", f"{url}/invocations"), fake.context())
    assert caught.value.problem == f"the first request is {said}"
    assert "--photo" in caught.value.hint
    assert calls == ["/invocations"]


def test_nor_is_one_that_nobody_answers(photo):
    with pinged(200, posted=hang_up) as url, pytest.raises(DeployError, match=r"first request got no answer .*closed conn"):
        loadtest.run(flags("--photo", photo, "--url", f"{url}/invocations"), fake.context())
    with pinged(200) as url, pytest.raises(DeployError, match=r"first request got no answer .*ascii"):
        loadtest.run(flags("--photo", photo, "--url", f"{url}/é"), fake.context())


@pytest.mark.parametrize("status", [200, 204, 429, 503])
def test_a_good_answer_or_a_busy_servers_lets_the_test_begin(status):
    with pinged(200, posted=answers(status, b"", [])) as url:
        loadtest.ask_once(url, load.HttpSender(url, b"photo", "image/jpeg"))
