"""What one model of a multi-model server leaves to the others, and how long an invocation may take there in all."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.multi_model import JPEG, Models
from tests.support.scripted import scripted
from tests.support.server import PATIENCE, UNHURRIED, Server
from tests.support.slow_model import SLOTS, in_flight_at, stopped

MULTI_MODEL = {"SAGEMAKER_MULTI_MODEL": "true"}


@pytest.mark.slow
def test_a_model_that_hangs_leaves_its_neighbours_a_place(model_dir, tmp_path, pool: ThreadPoolExecutor):
    settings = {"fronts": 0, "model_processes": 0, "slots": SLOTS, **UNHURRIED}
    with scripted(Path("/nowhere"), tmp_path, MULTI_MODEL, **settings) as engine:
        models = Models(engine)
        assert models.load("hangs", model_dir).status_code == 200
        inner = f"http://127.0.0.1:{models.port()}"
        (process,) = models.server.processes("kennel-model")
        with stopped(process):
            accepted = [pool.submit(models.invoke, "hangs") for _ in range(SLOTS)]
            in_flight_at(inner, SLOTS, accepted)
            assert models.load("idle", model_dir).status_code == 200
            for _ in range(2):
                assert models.invoke("idle").status_code == 200
                refused = models.invoke("hangs")
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
                assert refused.json()["error"]["message"].startswith("the requests under way leave no place")
        assert [future.result().status_code for future in accepted] == [200] * SLOTS
        assert models.invoke("hangs").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["", f"X-Kennel-Deadline: {1e18}\r\n"], ids=["plain", "forged"])
def test_the_time_of_an_invocation_goes_on_while_its_body_comes(model_dir, tmp_path, sent: str):
    """A model that is idle, and would answer at once."""
    settings = {"fronts": 0, "model_processes": 0, "stuck_after_seconds": 600, "request_timeout_seconds": 3}
    with scripted(Path("/nowhere"), tmp_path, MULTI_MODEL, **settings) as engine:
        models = Models(engine)
        assert models.load("a", model_dir).status_code == 200
        body = JPEG.ljust(1000, b"\0")
        head = f"POST /models/a/invoke HTTP/1.1\r\nHost: x\r\n{sent}Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", models.server.port), timeout=PATIENCE) as slow:
            slow.sendall(head.encode() + body[:500])
            time.sleep(4)
            slow.sendall(body[500:])
            assert slow.recv(4096).split()[1] == b"504"


@pytest.mark.slow
def test_nobody_outside_sets_the_time_that_a_request_may_take(models, model_dir):
    assert models.load("a", model_dir).status_code == 200
    assert models.invoke("a", headers={"X-Kennel-Deadline": "0"}).status_code == 200


def test_nobody_sets_the_time_that_a_request_to_a_single_model_may_take(server: Server):
    for value in ("0", "nonsense"):
        assert server.invoke(JPEG, X_Kennel_Deadline=value).status_code == 200
