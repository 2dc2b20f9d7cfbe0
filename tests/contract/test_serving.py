"""What a caller of the server may rely on, checked against a real one."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from containers.core import manifest
from containers.core.manifest import GOLDEN_FILE
from tests.support.artifacts import CLASSES, photo
from tests.support.server import ROOT, Server, until

JPEG, PNG, WEBP = (photo(1, format=name) for name in ("JPEG", "PNG", "WEBP"))


@pytest.fixture(scope="module")
def server(limited: Server) -> Server:
    return limited


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_ping_is_200_with_an_empty_body(server: Server):
    response = requests.get(f"{server.url}/ping", timeout=30)
    assert (response.status_code, response.content) == (200, b"")


def test_the_golden_photo_gets_the_probabilities_that_training_recorded(server: Server, model_dir: Path):
    golden = manifest.read(model_dir).golden
    answer = server.invoke((model_dir / GOLDEN_FILE).read_bytes(), "image/png").json()
    served = [answer["predictions"][0]["probabilities"][name] for name in CLASSES]
    assert served == pytest.approx(golden.probabilities, abs=golden.tolerance)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (JPEG, "image/jpeg"),
        (PNG, "image/png"),
        (WEBP, "image/webp"),
        (JPEG, "application/x-image"),
        (PNG, "application/octet-stream"),
        (WEBP, None),
        (JPEG, "IMAGE/JPEG; q=1"),
    ],
)
def test_a_photo_is_answered_with_its_class(server: Server, body: bytes, content_type: str | None):
    response = server.invoke(body, content_type)
    assert response.status_code == 200, response.text
    answer = response.json()
    (prediction,) = answer["predictions"]
    assert set(prediction["probabilities"]) == set(CLASSES)
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    ranked = sorted(prediction["probabilities"].items(), key=lambda pair: -pair[1])
    assert [(top["class"], top["probability"]) for top in prediction["top"]] == ranked
    assert (prediction["class"], prediction["probability"]) == ranked[0]
    assert answer["model"]["architecture"] == "squeezenet1_1"


def test_a_json_batch_is_answered_in_order_with_errors_in_place(server: Server):
    photos = [photo(seed) for seed in range(40)]  # more than there are slots
    alone = [server.invoke(body, "image/png").json()["predictions"][0] for body in photos[:3]]
    instances = [{"b64": b64(body)} for body in photos]
    instances[5:5] = [{"b64": b64(b"not a photo")}, {"b64": "%%%"}, {"url": "x"}, 7]
    predictions = server.invoke(json.dumps({"instances": instances}).encode(), "application/json").json()["predictions"]
    assert len(predictions) == 44
    assert [item["error"]["kind"] for item in predictions[5:9]] == ["BadRequest"] * 4
    assert all("class" in item for item in predictions[:5] + predictions[9:])
    for together, single in zip(predictions, alone, strict=False):
        assert together["probabilities"] == pytest.approx(single["probabilities"], abs=1e-4)


def test_json_lines_in_json_lines_out(server: Server):
    body = "\n".join([json.dumps({"b64": b64(JPEG)}), "{broken", json.dumps({"b64": b64(PNG)})]).encode()
    response = server.invoke(body, "application/jsonlines")
    assert response.headers["Content-Type"] == "application/jsonlines"
    first, second, third = (json.loads(line) for line in response.text.splitlines())
    assert "class" in first
    assert "error" in second
    assert "class" in third


def test_multipart_takes_several_files(server: Server):
    files = [
        ("photo", ("a.jpg", JPEG, "image/jpeg")),
        ("photo", ("b.png", PNG, "image/png")),
        ("x", ("c", b"no", "text/plain")),
    ]
    response = requests.post(f"{server.url}/invocations", files=files, timeout=60)
    assert [("class" in item) for item in response.json()["predictions"]] == [True, True, False]


def test_csv_answers_one_line_per_photo(server: Server):
    body = json.dumps({"instances": [{"b64": b64(JPEG)}, {"b64": "!"}]}).encode()
    response = server.invoke(body, "application/json", Accept="text/csv")
    assert response.headers["Content-Type"].startswith("text/csv")
    good, bad = csv.reader(io.StringIO(response.text))
    assert good[0] in CLASSES
    assert 0 < float(good[1]) <= 1
    assert bad[:2] == ["", ""]
    assert bad[2].startswith("BadRequest")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/csv;q=0.5, application/json;q=0.1", "text/csv"),
        ("image/png, */*;q=0.1", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;odata=verbose;q=0.2, text/csv; header=absent; q=0.3", "text/csv"),
    ],
)
def test_accept_is_honoured(server: Server, accept: str, expected: str):
    response = server.invoke(JPEG, Accept=accept)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].split(";")[0] == expected


def test_custom_attributes_come_back_and_the_inference_id_is_logged(server: Server):
    response = server.invoke(JPEG, **{"X-Amzn-SageMaker-Custom-Attributes": "trace=1", "X-Amzn-SageMaker-Inference-Id": "id-7"})
    assert response.headers["X-Amzn-SageMaker-Custom-Attributes"] == "trace=1"
    assert response.headers["X-Request-Id"] == "id-7"
    line = next(event for event in server.events("request") if event["request_id"] == "id-7")
    assert (line["status"], line["photos"], line["bytes"]) == (200, 1, len(JPEG))


def test_pings_and_scrapes_leave_no_line_in_the_log(server: Server):
    server.ping()
    assert requests.get(f"{server.url}/metrics", timeout=60).status_code == 200
    assert not [event for event in server.events("request") if event["route"] in ("/ping", "/metrics")]


def test_metrics_are_summed_over_the_fronts(server: Server):
    def fronts() -> set[str]:
        """That have answered so far. A connection each: on a busy machine one of them may get many in a row."""
        assert server.invoke(JPEG).status_code == 200
        return {event["process"] for event in server.events("request")}

    until(lambda: len(fronts()) == 2, "both fronts have answered")
    answered = sum(event["status"] == 200 for event in server.events("request") if event["route"] == "/invocations")
    text = requests.get(f"{server.url}/metrics", timeout=60).text
    found = [line for line in text.splitlines() if line.startswith('kennel_requests_total{route="/invocations",status="200"}')]
    assert [float(line.split()[-1]) for line in found] == [answered]
    assert "kennel_model_processes_ready 1.0" in text
    assert "kennel_batch_photos_count" in text


def test_execution_parameters(server: Server):
    answer = requests.get(f"{server.url}/execution-parameters", timeout=60).json()
    assert set(answer) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert answer["MaxConcurrentTransforms"] * answer["MaxPayloadInMB"] <= 100


def test_the_page_and_the_api_description_are_served(server: Server):
    page = requests.get(server.url, timeout=60)
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'fetch("invocations"' in page.text  # relative: also right behind a proxy's prefix
    assert "/invocations" in requests.get(f"{server.url}/openapi.json", timeout=60).json()["paths"]


def test_fronts_hold_neither_torch_nor_an_engine(server: Server):
    def libraries(name: str) -> set[str]:
        return {Path(area.path).name for child in server.processes(name) for area in child.memory_maps()}

    heavy = {"libtorch_cpu.so", "libc10.so", "libopenvino.so"}
    assert server.processes("kennel-front")
    assert not heavy & (libraries("kennel-front") | libraries("kennel-http"))
    assert "libtorch_cpu.so" in libraries("kennel-model")


def test_a_large_jpeg_decoded_at_reduced_scale_is_classified_as_at_full_resolution(server: Server, model_dir: Path):
    """The server decodes large JPEGs at a reduced DCT scale; the same pixels as PNG take the full-resolution path."""
    for seed in range(6):
        large = photo(seed, size=(1600, 1200), format="JPEG", quality=90)
        full = io.BytesIO()
        Image.open(io.BytesIO(large)).save(full, "PNG", compress_level=1)
        body = full.getvalue()
        if len(body) > 900_000:
            Image.open(io.BytesIO(large)).save(full := io.BytesIO(), "WEBP", lossless=True, method=0)
            body = full.getvalue()
        reduced, complete = (server.invoke(data, None).json()["predictions"][0] for data in (large, body))
        assert reduced["class"] == complete["class"]
        np.testing.assert_allclose(list(reduced["probabilities"].values()), list(complete["probabilities"].values()), atol=0.01)


def test_the_tree_is_the_package():
    assert (ROOT / "containers/serve/bin/serve").stat().st_mode & 0o111
