"""Large, chunked, compressed, announced and oddly written bodies, with the limits that hold unless somebody sets others."""

import base64
import io
import json
import select
import socket
import struct
import time
import zlib
from contextlib import ExitStack

import pytest
import requests
from PIL import Image

from tests.support.artifacts import photo
from tests.support.memory import resident_mb
from tests.support.scripted import scripted
from tests.support.server import Server, until

JPEG = photo(1, format="JPEG")


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    with scripted(model_dir, tmp_path_factory.mktemp("server")) as engine:
        yield engine.server


def test_bodies_of_25_mb_are_taken_and_100_mb_in_a_batch_transform(server: Server, model_dir, tmp_path):
    megabyte = 1 << 20
    assert server.invoke(JPEG.ljust(25 * megabyte, b"\0")).status_code == 200
    assert server.invoke(JPEG.ljust(25 * megabyte + 1, b"\0")).status_code == 413
    batch = {"SAGEMAKER_BATCH": "true", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "100"}
    with scripted(model_dir, tmp_path, batch) as engine:
        assert engine.server.invoke(JPEG.ljust(100 * megabyte, b"\0")).status_code == 200
        assert engine.server.invoke(JPEG.ljust(100 * megabyte + 1, b"\0")).status_code == 413
        told = requests.get(f"{engine.server.url}/execution-parameters", timeout=60).json()
        assert (told["MaxPayloadInMB"], told["MaxConcurrentTransforms"]) == (100, 1)


@pytest.mark.parametrize("job", [{}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}], ids=["unset", "unlimited"])
def test_a_batch_transform_that_sets_no_limit_sends_so_many_at_once_that_cores_are_busy(model_dir, tmp_path, job):
    """100 MB at once is SageMaker's limit: one request, had we named the largest body that we take."""
    with scripted(model_dir, tmp_path, {"SAGEMAKER_BATCH": "true"} | job) as engine:
        told = requests.get(f"{engine.server.url}/execution-parameters", timeout=60).json()
        assert (told["MaxPayloadInMB"], told["MaxConcurrentTransforms"]) == (6, 16)
        assert engine.server.invoke(JPEG.ljust(60 << 20, b"\0")).status_code == 200


def test_a_batch_transform_never_sends_more_at_once_than_there_are_slots(model_dir, tmp_path):
    with scripted(model_dir, tmp_path, {"SAGEMAKER_BATCH": "true"}, slots=4) as engine:
        told = requests.get(f"{engine.server.url}/execution-parameters", timeout=60).json()
        assert (told["MaxPayloadInMB"], told["MaxConcurrentTransforms"]) == (6, 4)


def test_base64_may_have_line_breaks_or_say_what_it_is(server: Server):
    """As the Lambda takes it."""
    texts = [
        base64.encodebytes(JPEG).decode(),
        "data:image/jpeg;base64," + base64.b64encode(JPEG).decode(),
        "data:image/jpeg;base64,%%%",
    ]
    body = json.dumps({"instances": [{"b64": text} for text in texts]}).encode()
    predictions = server.invoke(body, "application/json").json()["predictions"]
    assert ["class" in prediction for prediction in predictions] == [True, True, False]


def test_multipart_is_answered_in_the_order_of_the_body_whatever_its_fields_are_called(server: Server):
    parts = [("a", JPEG), ("b", b"no photo"), ("a", photo(3)), ("c", b"no photo"), ("b", photo(4))]
    files = [(name, (f"{number}.jpg", data, "image/jpeg")) for number, (name, data) in enumerate(parts)]
    response = requests.post(f"{server.url}/invocations", files=files, timeout=60)
    assert ["class" in item for item in response.json()["predictions"]] == [True, False, True, False, True]


def test_bodies_of_an_asynchronous_endpoint_are_taken_where_the_limit_is_raised(model_dir, tmp_path):
    with scripted(model_dir, tmp_path, max_body_mb=1000, request_timeout_seconds=3540) as engine:
        assert engine.server.invoke(JPEG.ljust(300 << 20, b"\0")).status_code == 200
        assert engine.server.ping() == 200


def test_a_body_may_come_in_chunks_of_unknown_number(server: Server):
    def send(total: int) -> requests.Response:
        pieces = (JPEG if number == 0 else bytes(1 << 20) for number in range(total))
        return requests.post(f"{server.url}/invocations", data=pieces, headers={"Content-Type": "image/jpeg"}, timeout=60)

    assert send(3).status_code == 200
    assert send(27).status_code == 413


def test_bodies_for_which_there_is_no_memory_are_refused_before_they_are_read(model_dir, tmp_path):
    """Two of the largest fit, and not three. What was announced counts, since that is what will come."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (300 << 20)
    with scripted(model_dir, tmp_path, max_body_mb=300) as engine, ExitStack() as stack:
        uploads = [stack.enter_context(socket.create_connection(("127.0.0.1", engine.server.port))) for _ in range(3)]
        for upload in uploads:
            upload.sendall(head + JPEG)
        refused, _, _ = select.select(uploads, [], [], 60)
        assert len(refused) == 1
        answer = refused[0].recv(4096)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b"Overloaded" in answer
        assert engine.server.ping(timeout=60) == 200
        stack.close()
        until(lambda: engine.server.invoke(JPEG).status_code == 200, "the memory of who hung up is free again")


def test_a_slow_sender_of_too_much_sees_the_answer_and_no_reset(server: Server):
    """Most clients send all of their request before they look."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (30 << 20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head)
        for _ in range(10):
            time.sleep(0.3)
            connection.sendall(bytes(3 << 20))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_is_told_to_go_on(server: Server):
    """curl does so with every body over a megabyte."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nExpect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(JPEG))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(JPEG)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_one_connection_carries_request_after_request_with_or_without_pauses(server: Server):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:

        def answers(count: int) -> None:
            received = b""
            while received.count(b'"predictions"') < count or not received.endswith(b"}"):
                part = connection.recv(1 << 16)
                assert part, f"closed after {received!r}"
                received += part
            assert received.count(b"HTTP/1.1 200 OK") == count

        for pause in (0.0, 0.02, 0.5):  # while the thread waits for it, and after it gave the connection back
            time.sleep(pause)
            connection.sendall(head + JPEG)
            answers(1)
        connection.sendall(2 * (head + JPEG))  # at once: the second is read together with the first
        answers(2)


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG of one pixel with one more chunk."""
    Image.new("RGB", (1, 1)).save(buffer := io.BytesIO(), "PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return buffer.getvalue()[:33] + chunk + buffer.getvalue()[33:]  # behind the header


def test_decompression_bombs_are_refused_or_ignored_and_take_no_memory(server: Server):
    squeeze = zlib.compressobj(1)
    bomb = b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(24)) + squeeze.flush()  # 400 MB
    before = resident_mb(server.process.pid)
    for kind, content in ((b"zTXt", b"comment\0\0"), (b"iTXt", b"comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")):
        assert server.invoke(with_chunk(kind, content + bomb), "image/png").status_code in (200, 400)
    for size in ((12_000, 12_000), (20_000, 20_000)):
        Image.new("1", size).save(buffer := io.BytesIO(), "PNG")
        assert server.invoke(buffer.getvalue(), "image/png").status_code == 413
    assert resident_mb(server.process.pid) < before + 200


def test_20000_pixels_within_the_limit_are_classified(server: Server):
    Image.new("1", (20_000, 5_000)).save(buffer := io.BytesIO(), "PNG")  # 100 million, 300 MB as RGB
    assert server.invoke(buffer.getvalue(), "image/png").status_code == 200
    Image.new("L", (20_000, 1_000)).save(buffer := io.BytesIO(), "JPEG")
    assert server.invoke(buffer.getvalue()).status_code == 200
