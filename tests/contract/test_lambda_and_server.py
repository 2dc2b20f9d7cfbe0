"""The Lambda in AWS's runtime client, through boto3, to the real server: what a caller of the function gets."""

import base64
import json
import threading
from pathlib import Path

import pytest

from containers.core import manifest
from containers.core.manifest import GOLDEN_FILE
from tests.support.artifacts import CLASSES, photo
from tests.support.lambda_runtime import LambdaFunction
from tests.support.sagemaker_runtime import SageMakerRuntime
from tests.support.server import UNHURRIED, Server, serving, until

ROOT = Path(__file__).parents[2] / "lambda"


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(model_dir, log, slots=1, max_body_mb=1, fronts=1, **UNHURRIED) as running:
        yield running


@pytest.fixture(scope="module")
def function(server):
    with SageMakerRuntime({"dogs": server.url}) as runtime:
        wiring = {"ENDPOINT_NAME": "dogs", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime.url, "READ_TIMEOUT_SECONDS": "60"}
        with LambdaFunction(ROOT, "invoke_endpoint.handler", wiring, timeout_seconds=120) as process:
            yield process


def post(body: bytes, content_type: str = "image/png", **headers: str) -> dict:
    context = {"http": {"method": "POST", "path": "/"}, "domainName": "abc.lambda-url.eu-west-1.on.aws"}
    text = base64.b64encode(body).decode()
    return {
        "requestContext": context,
        "headers": {"content-type": content_type, **headers},
        "body": text,
        "isBase64Encoded": True,
    }


def probabilities(answer: dict) -> list[float]:
    assert answer["statusCode"] == 200, answer
    (prediction,) = json.loads(answer["body"])["predictions"]
    return [prediction["probabilities"][name] for name in CLASSES]


@pytest.mark.parametrize("kind", ["url", "direct", "instances"])
def test_the_golden_photo_gets_trainings_own_probabilities(function, model_dir, kind):
    golden = (model_dir / GOLDEN_FILE).read_bytes()
    text = base64.b64encode(golden).decode()
    event = {"url": post(golden), "direct": {"image": text}, "instances": {"instances": [{"b64": text}]}}[kind]
    wanted = manifest.read(model_dir).golden
    assert probabilities(function.invoke(event)) == pytest.approx(wanted.probabilities, abs=wanted.tolerance)


def test_the_functions_request_id_is_in_the_servers_log(function, server: Server):
    answer = function.invoke(post(photo(2)))
    request_id = answer["headers"]["x-request-id"]
    assert until(lambda: request_id in server.log.read_text(), "the request's line in the log")


@pytest.mark.parametrize(
    ("event", "status", "kind"),
    [
        (post(b"not a photo", "image/png"), 400, "BadRequest"),
        (post(b"plain", "text/plain"), 415, "UnsupportedMediaType"),
        (post(photo(3), accept="application/pdf"), 406, "NotAcceptable"),
        (post(bytes(1_200_000)), 413, "TooLarge"),
    ],
    ids=["broken", "type", "accept", "size"],
)
def test_the_servers_refusals_arrive_as_it_said_them(function, event, status, kind):
    answer = function.invoke(event)
    assert answer["statusCode"] == status, answer
    assert answer["headers"]["content-type"] == "application/json"
    assert json.loads(answer["body"])["error"]["kind"] == kind


def test_an_overloaded_server_is_503_with_retry_after(function, server: Server):
    """One slot, and a model that stands still: the first request holds the slot until the model goes on."""
    (model,) = server.processes("kennel-model")
    statuses: list[int] = []
    clients = [
        threading.Thread(target=lambda: statuses.append(server.invoke(photo(4), "image/png").status_code)) for _ in range(3)
    ]
    model.suspend()
    try:
        for client in clients:
            client.start()
        until(lambda: 503 in statuses, "a refusal, so that the slot is taken")
        answer = function.invoke(post(photo(5)))
    finally:
        model.resume()
        for client in clients:
            client.join()
    assert answer["statusCode"] == 503
    assert answer["headers"]["retry-after"] == "1"
    assert json.loads(answer["body"])["error"]["kind"] == "Overloaded"
    assert function.invoke(post(photo(6)))["statusCode"] == 200
