"""What the endpoint's errors become, with fakes for the handler's two clients."""

import json

import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from tests.support.lambda_events import Context, Runtime, balancer_event, function, model_error, service_error, url_event


@pytest.mark.parametrize("status", [400, 405, 406, 413, 415, 500, 503, 504, 507])
def test_the_models_own_status_and_message_are_kept(status):
    said = json.dumps({"error": {"kind": "UnsupportedMediaType", "message": "not a photo"}})
    runtime = Runtime(model_error(status, said))
    answer = function(runtime)(url_event(), Context())
    assert (answer["statusCode"], answer["body"]) == (status, said)
    assert answer["headers"].get("retry-after") == ("1" if status == 503 else None)
    assert len(runtime.calls) == 1


@pytest.mark.parametrize("said", ["<html>oops", "[" * 2048], ids=["html", "deep"])
def test_a_model_error_that_is_not_json_is_wrapped(said):
    answer = function(Runtime(model_error(500, said)))(url_event(), Context())
    described = {"kind": "ModelError", "message": said[:1000], "request_id": Context.aws_request_id}
    assert json.loads(answer["body"]) == {"error": described}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (model_error(0, "Your invocation timed out while waiting for a response from container primary."), 504),
        (model_error(0, "connection reset"), 502),
        (ReadTimeoutError(endpoint_url="https://runtime"), 504),
        (service_error("ValidationError"), 502),
        (service_error("AccessDeniedException", 403), 502),
        (service_error("ValidationError", 413), 413),
    ],
)
def test_what_may_have_cost_work_or_cannot_succeed_is_not_tried_again(error, status, capsys):
    runtime = Runtime(error)
    answer = function(runtime)(url_event(), Context())
    assert answer["statusCode"] == status
    assert len(runtime.calls) == 1
    assert "123456789012" not in answer["body"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (service_error("ThrottlingException"), 429),
        (service_error("ModelNotReadyException", 429), 503),
        (service_error("ServiceUnavailable", 503), 503),
        (service_error("InternalFailure", 500), 502),
        (EndpointConnectionError(endpoint_url="https://runtime"), 502),
        (ConnectionClosedError(endpoint_url="https://runtime"), 502),  # as a connection kept while the function was frozen
    ],
)
def test_what_the_model_never_saw_is_tried_again_then_said(error, status):
    pauses: list[float] = []
    runtime = Runtime(error)
    assert function(runtime, pauses=pauses)(url_event(), Context())["statusCode"] == 200
    assert len(runtime.calls) == 2
    assert len(pauses) == 1
    assert 0 <= pauses[0] <= 0.4
    runtime = Runtime(error, error, error)
    answer = function(runtime)(url_event(), Context())
    assert answer["statusCode"] == status
    assert len(runtime.calls) == 2
    assert answer["headers"].get("retry-after") == ("1" if status in (429, 503) else None)
    assert "123456789012" not in answer["body"]


def test_too_little_time_sends_nothing():
    runtime = Runtime()
    answer = function(runtime, read_timeout_seconds=20)(url_event(), Context(22.9))
    assert answer["statusCode"] == 504
    assert runtime.calls == []


def test_no_second_attempt_when_it_would_not_fit():
    runtime = Runtime(service_error("ThrottlingException"))
    assert function(runtime, read_timeout_seconds=20)(url_event(), Context(23.5, 23.5, 22))["statusCode"] == 429
    assert len(runtime.calls) == 1


def test_an_answer_that_lambda_cannot_carry_is_an_error_of_ours():
    answer = function(Runtime(answer=bytes(6 * 1024 * 1024), media_type="application/x-npy"))(url_event(), Context())
    assert answer["statusCode"] == 502


LIMIT = 6 * 1024 * 1024  # of the JSON that the runtime makes of an answer


@pytest.mark.parametrize(
    ("unit", "media_type", "grown"),
    [
        (b'{"class": "pug"}\n', "application/jsonlines", 22 / 17),
        (b"\\", "text/plain", 2),
        (b"\x00", "text/plain", 6),
        (b"\xff", "text/plain", 3),
        ("ü".encode(), "text/plain", 1),
        (b"abc", "application/x-npy", 4 / 3),
    ],
    ids=["quotes", "backslashes", "control", "broken", "not-ascii", "base64"],
)
def test_an_answer_is_measured_as_the_json_that_lambda_carries(unit, media_type, grown):
    def answer(size: float) -> dict:
        body = unit * int(size / grown / len(unit))
        return function(Runtime(answer=body, media_type=media_type))(url_event(), Context())

    carried = answer(LIMIT - 70_000)
    assert carried["statusCode"] == 200
    assert LIMIT - 71_000 < len(json.dumps(carried, ensure_ascii=False).encode()) < LIMIT
    refused = answer(LIMIT)
    assert refused["statusCode"] == 502
    assert "send fewer photos" in json.loads(refused["body"])["error"]["message"]


def test_a_load_balancer_carries_less():
    said = Runtime(answer=b"[" + b"0," * 500_000 + b"0]")
    assert function(said)(url_event(), Context())["statusCode"] == 200
    answer = function(said)(balancer_event(), Context())
    assert answer["statusCode"] == 502
    assert "1 MB" in json.loads(answer["body"])["error"]["message"]
