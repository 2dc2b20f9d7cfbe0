"""The proxy spoils what it says it spoils; and deploy gets through it, whatever of that it meets."""

import contextlib
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.faults import network
from tests.faults.invariants import Broken
from tests.support.fault_proxy import FAULTS, FaultProxy

ANSWER = b"x" * 1000


@pytest.fixture
def server():
    """Answers every POST, and keeps what it was sent."""
    seen: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def handle(self):
            with contextlib.suppress(OSError):  # the proxy resets it
                super().handle()

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running, seen
    running.shutdown()
    thread.join()
    running.server_close()


def post(url: str, body: bytes = b"photo" * 100, timeout: float = 60) -> bytes:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout)
    try:
        connection.request("POST", "/", body)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_without_a_fault_it_passes_everything_on(server):
    with FaultProxy(server[0].server_address, seed=1) as proxy:
        assert post(proxy.url, bytes(500_000)) == ANSWER
    assert server[1] == [bytes(500_000)]
    assert not proxy.met


SPOILT = {
    "drop": (http.client.RemoteDisconnected, ConnectionError),
    "reset": (ConnectionError, http.client.RemoteDisconnected),
    "stall": (TimeoutError,),
    "truncate": (http.client.IncompleteRead,),
    "lose the answer": (ConnectionError, http.client.RemoteDisconnected),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_what_it_is_called(server, fault):
    with FaultProxy(server[0].server_address, seed=1, delay_seconds=0.5) as proxy:
        proxy.rate, proxy.faults = 1.0, (fault,)
        began = time.monotonic()
        if fault == "delay":
            assert post(proxy.url) == ANSWER
            assert time.monotonic() - began >= 0.5
        else:
            with pytest.raises(SPOILT[fault]):
                post(proxy.url, timeout=2 if fault == "stall" else 60)
        assert set(proxy.met) == {fault}
        reached = bool(server[1])
        proxy.rate = 0.0
        assert post(proxy.url) == ANSWER
    assert reached is (fault in ("delay", "truncate", "lose the answer"))


@pytest.fixture
def lane(tmp_path):
    made = network.Network(tmp_path, seed=3, done=lambda _: None)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_deploy_gets_through_a_bad_network(lane):
    lane.disturb(list(network.KINDS))
    assert sum(lane.proxy.met.values()) > 10


def test_an_object_that_is_not_ours_breaks_an_invariant(lane):
    photos, bucket = lane._photos(), lane._bucket()
    key, path = next(iter(photos.items()))
    lane._s3().put_object(Bucket=bucket, Key=key, Body=path.read_bytes()[:-1])
    with pytest.raises(Broken, match="I7"):
        lane._whole(bucket, photos)
