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
from deploy.errors import Refused, TimedOut
from tests.support import aws as fake

Answer = int | Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def pinged(*answers: Answer) -> Iterator[str]:
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
