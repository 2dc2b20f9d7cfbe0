"""What the server answers to requests that it cannot serve: the caller's mistakes, each of its own kind."""

import io
import json
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.support.artifacts import photo
from tests.support.server import Server

JPEG = photo(1, format="JPEG")


@pytest.fixture(scope="module")
def server(limited: Server) -> Server:
    return limited


def error(response: requests.Response, status: int, kind: str) -> str:
    """Assert a clean error; returns its message."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert len(response.text) < 2048
    assert "Traceback" not in response.text
    described = response.json()["error"]
    assert described["kind"] == kind
    return described["message"]


def test_an_accept_that_cannot_be_met_is_406(server: Server):
    assert "text/csv" in error(server.invoke(JPEG, Accept="image/png"), 406, "NotAcceptable")


def test_errors_of_the_caller(server: Server):
    assert "not a readable image" in error(server.invoke(b"no photo"), 400, "BadRequest")
    error(server.invoke(JPEG[: len(JPEG) // 2]), 400, "BadRequest")
    error(server.invoke(b""), 400, "BadRequest")
    error(server.invoke(b"", None), 400, "BadRequest")
    error(server.invoke(b"{", "application/json"), 400, "BadRequest")
    error(server.invoke(b"[" * 100_000, "application/json"), 400, "BadRequest")
    error(server.invoke(b'{"instances": []}', "application/json"), 400, "BadRequest")
    error(server.invoke(b"--x--", "multipart/form-data; boundary=x"), 400, "BadRequest")
    error(server.invoke(b"no boundary", "multipart/form-data"), 400, "BadRequest")
    error(server.invoke(b"a,b", "text/csv"), 415, "UnsupportedMediaType")
    error(server.invoke(b"what is this", "application/octet-stream"), 415, "UnsupportedMediaType")
    error(requests.get(f"{server.url}/invocations", timeout=60), 405, "MethodNotAllowed")
    error(requests.get(f"{server.url}/nowhere", timeout=60), 404, "NotFound")
    assert requests.get(f"{server.url}/invocations", timeout=60).headers["Allow"] == "OPTIONS, POST"


def test_a_body_over_the_limit_is_413_although_it_was_sent_whole(server: Server):
    assert "SERVE_MAX_BODY_MB" in error(server.invoke(JPEG + bytes(4_000_000)), 413, "TooLarge")


def test_too_many_pixels_are_413(server: Server):
    buffer = io.BytesIO()
    Image.new("1", (20_000, 300)).save(buffer, "PNG")  # six million pixels in a few kilobytes
    assert "pixels" in error(server.invoke(buffer.getvalue(), "image/png"), 413, "TooLarge")
    Image.new("1", (20_000, 20_000)).save(buffer := io.BytesIO(), "PNG")
    assert "pixels" in error(server.invoke(buffer.getvalue(), "image/png"), 413, "TooLarge")


def test_a_20000_pixel_strip_within_the_limit_is_classified(server: Server):
    buffer = io.BytesIO()
    Image.new("RGB", (20_000, 100)).save(buffer, "JPEG")
    assert server.invoke(buffer.getvalue()).status_code == 200


def test_too_many_instances_are_413(model_dir: Path, server: Server):
    body = json.dumps({"instances": [{"b64": "aa"}] * 1025}).encode()
    error(server.invoke(body, "application/json"), 413, "TooLarge")


def test_every_stated_error_is_json_and_the_log_has_no_unexpected_one(server: Server):
    """Last in this file: nothing above made the server stumble."""
    assert not server.events("unexpected error")
    assert "Traceback" not in server.log.read_text()
