"""Requests and photos that nobody sends by mistake: each gets an error of its own, and none harms the server."""

import json
import random
import socket

import pytest
import requests

from tests.support.artifacts import photo
from tests.support.mutations import FLOAT, MAKE, mutated, scanned, small_photos, turned
from tests.support.server import Server
from tests.support.slow_model import gauge

JPEG = photo(1, format="JPEG")


@pytest.fixture(scope="module")
def server(limited: Server) -> Server:
    return limited


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"\xfc" * 1500 + b" / HTTP/1.1\r\n\r\n",
    ],
)
def test_hostile_requests_get_an_error_of_theirs(server: Server, raw: bytes):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(raw)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert len(answer) < 2048 + 300
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert server.ping() == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Expect: tea", b"417 Expectation Failed"),
        ("Transfer-Encoding: brotli", b"501 Not Implemented"),
        ("X: " + "a" * 9000, b"431 Request Header Fields Too Large"),
        ("X y: z", b"400 Bad Request"),
    ],
)
def test_what_is_refused_before_the_application_sees_it_is_answered_logged_and_counted_too(
    server: Server, header: str, status: bytes
):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"POST /invocations HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nConnection: close" in head
    identity = json.loads(body)["error"]["request_id"]
    assert f"\r\nX-Request-Id: {identity}".encode() in head
    (line,) = [event for event in server.events("request") if event["request_id"] == identity]
    assert (line["status"], line["error"]) == (int(status[:3]), "BadRequest")
    assert gauge(server, f'kennel_requests_total{{route="unknown",status="{line["status"]}"}}') >= 1


def test_a_request_line_that_is_too_long_is_414(server: Server):
    for length, status in ((4094, 404), (4095, 414)):
        path = "/" + "a" * (length - len("GET / HTTP/1.1"))
        assert requests.get(f"{server.url}{path}", timeout=60).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "image/jpeg; boundary=\"''\\\""},
        {"Accept": "*/*;q=999999999999999999999999, ;;;,,,"},
        {"X-Amzn-SageMaker-Inference-Id": "a" * 5000},
        {"X-Amzn-SageMaker-Custom-Attributes": "b" * 5000},
        {"Content-Type": "a" * 5000},
        {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000},
    ],
)
def test_strange_headers_never_cause_a_server_error(server: Server, headers: dict[str, str]):
    response = server.invoke(JPEG, **({"content_type": None} | headers))
    assert response.status_code < 500, response.text


def test_a_connection_whose_body_broke_off_says_that_it_closes(server: Server):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + b"3\r\nabc\r\nno number\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in answer


def test_a_sound_photo_with_odd_exif_is_classified_alone_and_in_a_batch(server: Server):
    odd = [photo(1, format="JPEG", exif=exif) for exif in (turned(6, (MAKE, FLOAT, b"abcd")), b"Exif\0\0no TIFF header")]
    for data in odd:
        assert server.invoke(data).status_code == 200
    files = [("photo", (f"{number}.jpg", data)) for number, data in enumerate([JPEG, *odd])]
    answer = requests.post(f"{server.url}/invocations", files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    assert ["class" in prediction for prediction in answer.json()["predictions"]] == [True] * 3


def test_a_photo_of_thousands_of_scans_is_refused_before_it_is_decoded(server: Server):
    bomb = scanned(photo(1, (2000, 1500), "JPEG", progressive=True), 50_000)
    refused = server.invoke(bomb)
    assert (refused.status_code, refused.json()["error"]["kind"]) == (400, "BadRequest")
    assert "scans" in refused.json()["error"]["message"]


def test_a_thousand_damaged_photos_cause_no_server_error(server: Server):
    chance = random.Random(20)
    originals = small_photos()
    workers = {process.pid for process in server.processes("kennel-")}
    with requests.Session() as session:
        for _ in range(1000):
            body = mutated(chance.choice(originals), chance)
            response = session.post(f"{server.url}/invocations", data=body, timeout=60)
            assert response.status_code in (200, 400, 413, 415), response.text
    assert {process.pid for process in server.processes("kennel-")} == workers
    assert not server.events("unexpected error")
    assert "Traceback" not in server.log.read_text()
