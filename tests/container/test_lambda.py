"""Event → handler in AWS's runtime client → boto3 → the serving container → answer."""

import base64
import json
import threading
from pathlib import Path

import pytest

from containers.core import manifest
from containers.core.manifest import GOLDEN_FILE
from tests.conformance import serving
from tests.support import engine as docker_engine
from tests.support.lambda_runtime import LambdaFunction
from tests.support.sagemaker_runtime import SageMakerRuntime

ROOT = Path(__file__).parents[2] / "lambda"


@pytest.fixture(scope="module")
def container(engine, serve_image, model_dir, photo):
    one_slot = {"SERVE_SLOTS": "1"}  # so that one request that waits is an overload
    target = serving.Serving(engine, serve_image, model_dir, photo, "image/jpeg", one_slot, start_seconds=240)
    with target.started() as (box, url):
        target.wait(box, url)
        yield box, url


@pytest.fixture
def runtime(container):
    with SageMakerRuntime({"textures": container[1]}) as service:
        yield service


@pytest.fixture
def function(runtime):
    wiring = {"ENDPOINT_NAME": "textures", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime.url, "READ_TIMEOUT_SECONDS": "5"}
    with LambdaFunction(ROOT, "invoke_endpoint.handler", wiring, timeout_seconds=120) as process:
        yield process


def event(body: bytes, content_type: str) -> dict:
    return {
        "requestContext": {"http": {"method": "POST", "path": "/"}, "domainName": "abc.lambda-url.eu-west-1.on.aws"},
        "headers": {"content-type": content_type},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def test_the_golden_photo_gets_trainings_own_probabilities(function, model_dir):
    facts = manifest.read(model_dir)
    answer = function.invoke(event((model_dir / GOLDEN_FILE).read_bytes(), "image/png"))
    assert answer["statusCode"] == 200, answer
    (prediction,) = json.loads(answer["body"])["predictions"]
    given = [prediction["probabilities"][name] for name in facts.class_names]
    assert given == pytest.approx(facts.golden.probabilities, abs=facts.golden.tolerance)


def test_the_containers_refusal_arrives_as_it_said_it(function):
    answer = function.invoke(event(b"not a photo", "image/png"))
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"])["error"]["kind"] == "BadRequest"


def test_a_container_that_stands_still_is_a_504_in_time_and_asked_once(function, runtime, container, photo):
    """Once: it may be at work on the photo still."""
    assert function.invoke({"warmup": True})["statusCode"] == 200  # the cold start has a time of its own
    function.timeout_seconds = 30  # the deploy default; what takes longer is Lambda's error, not the handler's answer
    box, _ = container
    box.pause()
    try:
        answer = function.invoke(event(photo, "image/jpeg"))
    finally:
        box.unpause()
    assert answer.get("statusCode") == 504, answer
    assert json.loads(answer["body"])["error"]["kind"] == "DeadlineExceeded"
    assert "Traceback" not in answer["body"]
    assert runtime.calls == 1
    docker_engine.wait_until(lambda: runtime.ended == 1, 60, "the container's late answer")  # until then it holds the one slot


_SIGNAL_MODELS = """
import os, pathlib, signal, sys
for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if path.read_text().startswith("kennel-model"):
        os.kill(int(path.parent.name), getattr(signal, sys.argv[1]))
"""


def test_an_overloaded_container_is_503_with_retry_after(function, container, photo):
    """Its one slot is held by a request whose model stands still."""
    box, url = container
    statuses: list[int] = []
    headers = {"Content-Type": "image/jpeg"}
    call = lambda: statuses.append(serving.ask(url, "POST", "/invocations", photo, headers).status)  # noqa: E731
    clients = [threading.Thread(target=call) for _ in range(3)]
    assert box.exec_run(["python3", "-S", "-c", _SIGNAL_MODELS, "SIGSTOP"]).exit_code == 0
    try:
        for client in clients:
            client.start()
        docker_engine.wait_until(lambda: 503 in statuses, 60, "a refusal, so that the slot is taken")
        answer = function.invoke(event(photo, "image/jpeg"))
    finally:
        box.exec_run(["python3", "-S", "-c", _SIGNAL_MODELS, "SIGCONT"])
        for client in clients:
            client.join()
    assert answer["statusCode"] == 503, answer
    assert answer["headers"]["retry-after"] == "1"
    assert json.loads(answer["body"])["error"]["kind"] == "Overloaded"
    docker_engine.wait_until(lambda: serving.ask(url, "GET", "/ping").status == 200, 240, "200 from /ping again")
    assert function.invoke(event(photo, "image/jpeg"))["statusCode"] == 200


@pytest.mark.parametrize(
    ("content_type", "accept", "status", "kind"),
    [("text/plain", "*/*", 415, "UnsupportedMediaType"), ("image/jpeg", "application/pdf", 406, "NotAcceptable")],
    ids=["type", "accept"],
)
def test_other_refusals_arrive_too(function, photo, content_type, accept, status, kind):
    asked = event(photo, content_type)
    asked["headers"]["accept"] = accept
    answer = function.invoke(asked)
    assert answer["statusCode"] == status, answer
    assert json.loads(answer["body"])["error"]["kind"] == kind
