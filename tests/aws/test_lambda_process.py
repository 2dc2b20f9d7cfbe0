"""event → handler in AWS's own runtime client (awslambdaric, its own process) → boto3 → HTTP → a server → the answer."""

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import make_server

import pytest

from tests.support import bucket as buckets
from tests.support.lambda_runtime import LambdaFunction
from tests.support.sagemaker_runtime import SageMakerRuntime
from tests.support.server import until

ROOT = Path(__file__).parents[2] / "lambda"
PHOTO = b"\x89PNG not really"


class Server:
    """A model server reduced to what matters here: it answers what it was told to, and can be late until released."""

    def __init__(self) -> None:
        self.answer: tuple[str, bytes] = ("200 OK", b'{"class": "pug"}')
        self.released = threading.Event()
        self.released.set()
        self.seen: list[dict] = []
        self.paths: list[str] = []

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.seen.append(
            {"body": body, "type": environ["CONTENT_TYPE"], "id": environ.get("HTTP_X_AMZN_SAGEMAKER_INFERENCE_ID")}
        )
        self.paths.append(environ["PATH_INFO"])
        self.released.wait(60)
        status, answer = self.answer
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, str]]:
    application = Server()
    with make_server("127.0.0.1", 0, application, handler_class=buckets.Quiet) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield application, f"http://127.0.0.1:{http.server_port}"
        application.released.set()
        http.shutdown()


@pytest.fixture(scope="module")
def runtime(server) -> Iterator[SageMakerRuntime]:
    with SageMakerRuntime({"dogs": server[1]}) as service:
        yield service


def start(runtime: SageMakerRuntime, *, timeout_seconds: float = 60.0, **environment: str) -> LambdaFunction:
    wiring = {"ENDPOINT_NAME": "dogs", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime.url}
    return LambdaFunction(ROOT, "invoke_endpoint.handler", wiring | environment, timeout_seconds=timeout_seconds)


@pytest.fixture(scope="module")
def function(runtime) -> Iterator[LambdaFunction]:
    with start(runtime) as process:
        yield process


def url_event(photo: bytes = PHOTO) -> dict:
    context = {"http": {"method": "POST", "path": "/"}, "domainName": "abc.lambda-url.eu-west-1.on.aws"}
    body = base64.b64encode(photo).decode()
    return {"requestContext": context, "headers": {"content-type": "image/png"}, "body": body, "isBase64Encoded": True}


def test_a_photo_goes_there_and_the_answer_back(function, server):
    answer = function.invoke(url_event())
    assert (answer["statusCode"], answer["body"]) == (200, '{"class": "pug"}')
    assert server[0].seen[-1] == {"body": PHOTO, "type": "image/png", "id": answer["headers"]["x-request-id"]}


def test_the_largest_photo_that_lambda_carries(function, server):
    photo = bytes(4_400_000)
    assert function.invoke(url_event(photo))["statusCode"] == 200
    assert server[0].seen[-1]["body"] == photo


def test_an_answer_is_refused_only_when_its_json_is_more_than_lambda_carries(function, server):
    line = '{"class": "Šarplaninac"}\n'.encode()
    application, _ = server
    application.answer = ("200 OK", line * (6_200_000 // (len(line) + 5)))  # four quotes and a line's end are escaped
    carried = function.invoke(url_event())
    application.answer = ("200 OK", line * (5_900_000 // len(line)))
    refused = function.invoke(url_event())
    application.answer = ("200 OK", b'{"class": "pug"}')
    assert (carried["statusCode"], carried["body"][-25:].encode()) == (200, line)
    assert refused["statusCode"] == 502, refused
    assert json.loads(refused["body"])["error"]["kind"] == "AnswerTooLarge"


@pytest.mark.parametrize("status", ["415 Unsupported Media Type", "503 Service Unavailable", "507 Insufficient Storage"])
def test_what_the_container_said_is_kept(function, server, status):
    application, _ = server
    said = json.dumps({"error": "SomeKind", "message": "what to do"}).encode()
    application.answer, before = (status, said), len(application.seen)
    answer = function.invoke(url_event())
    application.answer = ("200 OK", b"{}")
    assert (answer["statusCode"], answer["body"].encode()) == (int(status[:3]), said)
    assert ("retry-after" in answer["headers"]) == status.startswith("503")
    assert len(application.seen) == before + 1


def test_throttling_is_tried_once_more_then_429(function, runtime, server):
    runtime.failures = [(400, "ThrottlingException")]
    assert function.invoke(url_event())["statusCode"] == 200
    runtime.failures, before = [(400, "ThrottlingException")] * 2, runtime.calls
    answer = function.invoke(url_event())
    assert (answer["statusCode"], answer["headers"]["retry-after"]) == (429, "1")
    assert runtime.calls == before + 2
    assert "123456789012" not in answer["body"]


def test_sagemakers_own_timeout_is_504(function, runtime, server):
    application, _ = server
    application.released.clear()
    runtime.timeout_seconds = 0.2
    answer = function.invoke(url_event())
    runtime.timeout_seconds = 60.0
    application.released.set()
    assert answer["statusCode"] == 504


def test_a_late_endpoint_is_504_before_lambda_itself_gives_up_and_is_not_asked_twice(runtime, server):
    application, _ = server
    with start(runtime, READ_TIMEOUT_SECONDS="0.5") as process:
        assert process.invoke({"warmup": True})["statusCode"] == 200
        application.released.clear()
        before = runtime.calls
        answer = process.invoke(url_event())
        until(lambda: runtime.calls > before, "the service has met the call")
        application.released.set()
    assert answer["statusCode"] == 504
    assert runtime.calls == before + 1
    *_, line = process.log_lines("invocation")
    assert (line["status"], line["attempts"], line["error"]) == (504, 1, "DeadlineExceeded")


def test_a_function_timeout_that_is_too_short_is_said_and_nothing_is_sent(runtime):
    with start(runtime, READ_TIMEOUT_SECONDS="59") as process:
        before = runtime.calls
        answer = process.invoke(url_event())
    assert answer["statusCode"] == 504
    assert runtime.calls == before
    assert "READ_TIMEOUT_SECONDS" in process.log_lines("invocation")[0]["detail"]


def test_a_model_of_many_is_named_to_the_service(runtime, server):
    with start(runtime, MANY_MODELS="true") as process:
        assert process.invoke({"image": base64.b64encode(PHOTO).decode(), "model": "pug.tar.gz"})["statusCode"] == 200
        assert server[0].paths[-1] == "/models/pug.tar.gz/invoke"
        assert process.invoke(url_event())["statusCode"] == 400


def test_an_absent_endpoint_and_an_absent_service(runtime):
    with start(runtime, ENDPOINT_NAME="cats") as process:
        answer = process.invoke(url_event())
        assert answer["statusCode"] == 502
        assert "123456789012" not in answer["body"]
    assert "Endpoint cats of account 123456789012 not found" in process.log_lines("invocation")[0]["detail"]
    with start(runtime, AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME="http://127.0.0.1:9") as process:
        assert process.invoke(url_event())["statusCode"] == 502


def test_a_wrong_environment_fails_the_cold_start_with_its_reasons(runtime):
    with start(runtime, MAX_ATTEMPTS="0", INPUT_PREFIX="photos") as process:
        answer = process.invoke(url_event())
    assert answer["FunctionError"] == "Unhandled"
    for name in ("MAX_ATTEMPTS", "INPUT_BUCKET"):
        assert name in answer["errorMessage"]


@pytest.fixture
def bucket() -> Iterator[tuple[buckets.Bucket, dict[str, str]]]:
    """(the bucket, what the function must be told of it)"""
    with buckets.serving({"/inbox/photos/a b.png": PHOTO, "/inbox/private/a.png": PHOTO}) as (application, url):
        yield application, {"AWS_ENDPOINT_URL_S3": url, "INPUT_BUCKET": "inbox", "INPUT_PREFIX": "photos/"}


def test_pointers_are_read_below_the_prefix_only(runtime, server, bucket):
    application, s3 = bucket
    with start(runtime, **s3) as process:
        assert process.invoke({"s3": "s3://inbox/photos/a b.png"})["statusCode"] == 200
        assert server[0].seen[-1]["body"] == PHOTO
        assert process.invoke({"s3": "s3://inbox/photos/none.png"})["statusCode"] == 404
        assert process.invoke({"s3": "s3://inbox/private/a.png"})["statusCode"] == 403
        assert process.invoke({"s3": "s3://inbox/photos/../private/a.png"})["statusCode"] == 403
    assert application.asked == ["/inbox/photos/a b.png", "/inbox/photos/none.png"]


def test_a_late_bucket_is_answered_before_the_functions_own_time_is_over(runtime, bucket):
    """The least time that deploy gives a function, and the read timeout it sets with it."""
    application, s3 = bucket
    with start(runtime, **s3, READ_TIMEOUT_SECONDS="1") as process:
        until(lambda: process.invoke({"s3": "s3://inbox/photos/a b.png"})["statusCode"] == 200, "it has asked S3 before")
        process.timeout_seconds = 5
        application.released.clear()
        answer = process.invoke({"s3": "s3://inbox/photos/a b.png"})
        application.released.set()
    assert answer.get("statusCode") == 502, answer


@pytest.mark.parametrize("how", ["busy", "lost"])
def test_a_bucket_is_asked_once_more(runtime, bucket, how):
    application, s3 = bucket
    with start(runtime, **s3) as process:
        for times, status in ((1, 200), (2, 502)):
            setattr(application, how, times)
            assert process.invoke({"s3": "s3://inbox/photos/a b.png"})["statusCode"] == status
    assert len(application.asked) == 4
