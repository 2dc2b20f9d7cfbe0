"""Batches of photos that take long to decode: they stop at their deadline, and let others decode in between."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.support.artifacts import photo
from tests.support.scripted import scripted
from tests.support.server import Server, until
from tests.support.slow_model import gauge

DECODED = "kennel_decode_seconds_count"


@pytest.fixture(scope="module")
def heavy_photo() -> bytes:
    """A few kilobytes that decode to 100 million pixels."""
    Image.new("1", (10_000, 10_000)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def batch(data: bytes, count: int) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}] * count}).encode()


@pytest.mark.parametrize("sound", [True, False], ids=["classified", "damaged"])
def test_a_batch_stops_at_its_deadline(model_dir, tmp_path, heavy_photo: bytes, sound: bool):
    data = heavy_photo if sound else heavy_photo[:-30]  # found out at the very end
    with scripted(model_dir, tmp_path, request_timeout_seconds=2) as engine:
        late = engine.server.invoke(batch(data, 150), "application/json")
        assert (late.status_code, late.json()["error"]["kind"]) == (504, "DeadlineExceeded")
        assert gauge(engine.server, DECODED) < 150
        until(lambda: gauge(engine.server, "kennel_slots_in_use") == 0, "no slot stays behind")


def test_who_waits_for_a_turn_to_decode_waits_no_longer_than_a_request_may(
    model_dir, tmp_path, heavy_photo: bytes, pool: ThreadPoolExecutor
):
    with scripted(model_dir, tmp_path, request_timeout_seconds=3) as engine:
        hogs = [pool.submit(engine.server.invoke, batch(heavy_photo, 60), "application/json") for _ in range(6)]
        assert {hog.result().status_code for hog in hogs} == {504}
        assert gauge(engine.server, DECODED) < 60  # of 360: not even one batch to its end
        until(lambda: engine.server.invoke(photo(1)).status_code == 200, "the next request is answered")


def test_a_photo_does_not_wait_until_the_batches_before_it_are_decoded(
    model_dir, tmp_path, heavy_photo: bytes, pool: ThreadPoolExecutor
):
    def decoded(server: Server) -> float:
        return gauge(server, DECODED)

    with scripted(model_dir, tmp_path, request_timeout_seconds=600) as engine:
        server = engine.server
        hogs = [pool.submit(server.invoke, batch(heavy_photo, 25), "application/json") for _ in range(2)]
        until(lambda: decoded(server) >= 2 or any(hog.done() for hog in hogs), "both batches decode")
        assert not any(hog.done() for hog in hogs)
        before = decoded(server)
        assert server.invoke(photo(1)).status_code == 200
        assert decoded(server) - before < 12  # its own, those under way, one each meanwhile
        assert {hog.result().status_code for hog in hogs} == {200}
