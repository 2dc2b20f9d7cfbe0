"""The handler, with fakes for its two clients. What boto3 really raises is tested in tests/aws/test_lambda_process.py."""

import base64
import json

import pytest

from invoke_endpoint import TryAgain, handler
from tests.support.lambda_events import (
    BASE64,
    PHOTO,
    S3,
    Context,
    Runtime,
    balancer_event,
    function,
    model_error,
    rest_event,
    service_error,
    url_event,
)


@pytest.mark.parametrize(
    ("event", "media_type"),
    [
        ({"image": BASE64, "content_type": "image/png"}, "image/png"),
        ({"image": f"data:image/png;base64,{BASE64}"}, "application/octet-stream"),
        (url_event(), "image/png"),
        (url_event(is_base64=False), "image/png"),
        (
            url_event(json.dumps({"image": BASE64}), is_base64=False, content_type="application/json"),
            "application/octet-stream",
        ),
        (rest_event(), "image/png"),
        (balancer_event(), "image/png"),
        ({"s3": "s3://inbox/photos/a b.png"}, "image/png"),
        ({"s3": "s3://inbox/photos/a b.png", "content_type": "image/webp"}, "image/webp"),
    ],
    ids=["direct", "data-url", "url", "text-base64", "json-body", "rest", "balancer", "s3", "s3-typed"],
)
def test_every_kind_of_event_reaches_the_endpoint_as_the_same_bytes(event, media_type):
    runtime = Runtime()
    answer = function(runtime, S3({"photos/a b.png": PHOTO}), input_bucket="inbox", input_prefix="photos/")(event, Context())
    assert (answer["statusCode"], answer["body"], answer["isBase64Encoded"]) == (200, '{"class": "pug"}', False)
    (call,) = runtime.calls
    assert call["Body"] == PHOTO
    assert call["ContentType"] == media_type
    assert call["InferenceId"] == Context.aws_request_id


def test_a_photo_that_s3_has_no_type_for_is_left_to_the_server_to_recognise():
    runtime, s3 = Runtime(), S3({"photos/a.png": PHOTO}, media_type="binary/octet-stream")
    classify = function(runtime, s3, input_bucket="inbox", input_prefix="photos/")
    assert classify({"s3": "s3://inbox/photos/a.png"}, Context())["statusCode"] == 200
    assert runtime.calls[0]["ContentType"] == "application/octet-stream"


def test_the_load_balancer_gets_the_header_form_it_asked_for():
    answer = function(Runtime())(balancer_event(), Context())
    assert answer["multiValueHeaders"]["content-type"] == ["application/json"]


def test_accept_and_other_json_are_passed_on():
    runtime = Runtime(answer=b"\x93NUMPY", media_type="application/x-npy")
    body = json.dumps({"instances": [{"b64": "x"}]})
    event = url_event(body, is_base64=False, content_type="application/json", accept="application/x-npy")
    answer = function(runtime)(event, Context())
    assert runtime.calls[0]["Accept"] == "application/x-npy"
    assert runtime.calls[0]["Body"] == body.encode()
    assert answer["isBase64Encoded"]
    assert base64.b64decode(answer["body"]) == b"\x93NUMPY"


@pytest.mark.parametrize(
    "event",
    [
        {"warmup": True},
        {"source": "aws.events"},
        url_event(method="GET", path="/health"),
        url_event(method="GET", path="/v1/ping/"),
    ],
)
def test_warm_up_and_health_do_not_call_the_endpoint(event):
    runtime = Runtime()
    assert function(runtime)(event, Context(0.1))["statusCode"] == 200
    assert runtime.calls == []


@pytest.mark.parametrize(
    ("event", "status", "says"),
    [
        ([1], 400, "JSON object"),
        ({"picture": BASE64}, 400, '"image"'),
        ({"image": "no base64!"}, 400, "image is not valid base64"),
        ({"image": BASE64, "content_type": "ünicode"}, 400, "ASCII"),
        ({"image": BASE64, "content_type": "image/png\r\nX-Other: 1"}, 400, "one line"),
        ({"image": BASE64, "content_type": 7}, 400, "content_type"),
        (url_event(accept="a" * 1025), 400, "Accept"),
        (url_event("{", is_base64=False, content_type="application/json"), 400, "not JSON"),
        (url_event("[" * 100_000, is_base64=False, content_type="application/json"), 400, "not JSON"),
        (url_event("9" * 5000, is_base64=False, content_type="application/json"), 400, "not JSON"),
        (url_event("\ufffdPNG", is_base64=False), 400, "binaryMediaTypes"),
        (url_event(""), 400, "empty"),
        (url_event(base64.b64encode(bytes(2000)).decode()), 413, "0.001 MB"),
        (url_event(method="GET", path="/"), 405, "GET"),
        (url_event(method="OPTIONS"), 405, "OPTIONS"),
        ({"s3": "s3://inbox/photos/large.png"}, 413, "0.001 MB"),
        ({"s3": "s3://inbox/photos/absent.png"}, 404, "no such object"),
        ({"s3": "s3://inbox/other/a.png"}, 403, "s3://inbox/photos/"),
        ({"s3": "s3://elsewhere/photos/a.png"}, 403, "s3://inbox/photos/"),
        ({"s3": "https://example.com/a.png"}, 403, "s3://inbox/photos/"),
    ],
)
def test_what_the_caller_got_wrong_is_said_and_the_endpoint_is_not_called(event, status, says):
    runtime, s3 = Runtime(), S3({"photos/large.png": bytes(2000), "other/a.png": PHOTO})
    settings = {"input_bucket": "inbox", "input_prefix": "photos/", "max_body_mb": 0.001}
    answer = function(runtime, s3, **settings)(event, Context())
    assert answer["statusCode"] == status
    assert says in json.loads(answer["body"])["error"]["message"]
    assert runtime.calls == []


@pytest.mark.parametrize(
    ("event", "model"),
    [
        ({"image": BASE64, "model": "pug.tar.gz"}, "pug.tar.gz"),
        ({"s3": "s3://inbox/photos/a.png", "model": "pug.tar.gz"}, "pug.tar.gz"),
        (url_event(x_amzn_sagemaker_target_model="pug.tar.gz"), "pug.tar.gz"),
        (rest_event(X_Amzn_SageMaker_Target_Model="pug.tar.gz"), "pug.tar.gz"),
        (url_event('{"instances": [], "model": "pug.tar.gz"}', is_base64=False, content_type="application/json"), "pug.tar.gz"),
        (url_event(), "usual.tar.gz"),
    ],
    ids=["direct", "s3", "url", "rest", "instances", "the setting's"],
)
def test_of_many_models_the_one_that_is_named_is_called(event, model):
    runtime, s3 = Runtime(), S3({"photos/a.png": PHOTO})
    many = {"many_models": True, "target_model": "usual.tar.gz", "input_bucket": "inbox", "input_prefix": "photos/"}
    assert function(runtime, s3, **many)(event, Context())["statusCode"] == 200
    assert runtime.calls[0]["TargetModel"] == model


def passed_on(document: dict) -> dict:
    """A POST of JSON that is the container's own."""
    return url_event(json.dumps(document), is_base64=False, content_type="application/json")


@pytest.mark.parametrize(
    ("many", "event", "says"),
    [
        (True, url_event(), "serves many models: name one"),
        (True, {"image": BASE64, "model": "ü"}, "ASCII"),
        (True, {"image": BASE64, "model": 7}, "model must be a text"),
        (True, {"image": BASE64, "model": {}}, "model must be a text"),
        (False, {"image": BASE64, "model": False}, 'leave "model" in the JSON body out'),
        (False, {"image": BASE64, "model": "pug.tar.gz"}, "serves one model"),
        (False, {"image": BASE64, "model": "pug.tar.gz"}, 'leave "model" in the JSON body out'),
        (False, passed_on({"instances": [], "model": "pug.tar.gz"}), 'leave "model" in the JSON body out'),
        (False, passed_on({"instances": [], "model": {"id": "0123"}}), 'leave "model" in the JSON body out'),
        (False, passed_on({"inputs": "x", "model": "pug"}), "MANY_MODELS of this function must be true ([endpoint] kind"),
        (False, url_event(x_amzn_sagemaker_target_model="pug.tar.gz"), "leave the header X-Amzn-SageMaker-Target-Model out"),
        (True, passed_on({"instances": [], "model": ["pug.tar.gz"]}), "model must be a text"),
    ],
)
def test_a_model_that_is_not_named_or_named_in_vain_is_said(many, event, says):
    runtime = Runtime()
    answer = function(runtime, many_models=many)(event, Context())
    assert answer["statusCode"] == 400
    assert says in json.loads(answer["body"])["error"]["message"]
    assert runtime.calls == []


@pytest.mark.parametrize(
    "event", [url_event(), passed_on({"instances": [], "model": None}), passed_on({"instances": [], "model": ""})]
)
def test_one_model_is_called_without_a_name(event):
    runtime = Runtime()
    assert function(runtime)(event, Context())["statusCode"] == 200
    assert "TargetModel" not in runtime.calls[0]


def test_without_a_bucket_pointers_are_refused():
    assert function(Runtime())({"s3": "s3://any/thing"}, Context())["statusCode"] == 403


def test_cors_only_for_api_gateway_and_only_where_configured():
    origin = "https://dogs.example"
    allowed = function(Runtime(), cors_origins=(origin,))
    assert allowed(rest_event(Origin=origin), Context())["headers"]["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" in allowed(rest_event("!", Origin=origin), Context())["headers"]  # errors too
    assert "access-control-allow-origin" not in allowed(rest_event(Origin="https://evil.example"), Context())["headers"]
    assert "access-control-allow-origin" not in allowed(url_event(origin=origin), Context())["headers"]
    preflight = allowed(rest_event(method="OPTIONS", Origin=origin), Context())
    assert preflight["statusCode"] == 204
    assert "POST" in preflight["headers"]["access-control-allow-methods"]
    anyone = function(Runtime(), cors_origins=("*",))
    assert anyone(rest_event(Origin="https://a"), Context())["headers"]["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in function(Runtime())(rest_event(Origin=origin), Context())["headers"]


def notification(*keys: str, bucket: str = "inbox") -> dict:
    return {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}} for key in keys]}


def test_an_s3_notification_is_answered_per_object():
    reads = {"input_bucket": "inbox", "input_prefix": "photos/"}
    runtime = Runtime(None, model_error(415, '{"error": {}}'))
    classify = function(runtime, S3({"photos/a b.png": PHOTO, "photos/ü.png": PHOTO}), **reads)
    answers = classify(notification("photos/a+b.png", "photos/%C3%BC.png", "private/x.png"), Context())["results"]
    assert [answer["statusCode"] for answer in answers] == [200, 415, 403]
    assert answers[0]["s3"] == "s3://inbox/photos/a b.png"
    assert len(runtime.calls) == 2
    assert classify(notification("photos/a+b.png", bucket="other"), Context())["results"][0]["statusCode"] == 403
    assert classify({"Service": "Amazon S3", "Event": "s3:TestEvent"}, Context()) == {"results": []}


def test_an_s3_notification_that_came_at_a_bad_moment_is_delivered_again():
    reads = {"input_bucket": "inbox", "input_prefix": "photos/"}
    classify = function(Runtime(None, model_error(503, "busy")), S3({"photos/a.png": PHOTO, "photos/b.png": PHOTO}), **reads)
    with pytest.raises(TryAgain, match=r"1 of 2 photos .* s3://inbox/photos/b.png"):
        classify(notification("photos/a.png", "photos/b.png"), Context())


def test_one_log_line_per_event_without_the_photo_or_the_answer(capsys):
    function(Runtime(service_error("ThrottlingException")))(url_event(), Context())
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert line["request_id"] == Context.aws_request_id
    assert (line["event"], line["status"], line["source"], line["attempts"]) == ("invocation", 200, "function_url", 2)
    assert line["bytes_in"] == len(PHOTO)
    assert BASE64 not in json.dumps(line)
    assert "pug" not in json.dumps(line)
    function(Runtime(service_error("AccessDeniedException")))(url_event(), Context())
    line = json.loads(capsys.readouterr().out)
    assert line["level"] == "ERROR"
    assert "123456789012" in line["detail"]  # the operator's side sees what AWS said


def test_the_handler_outside_lambda_says_so():
    with pytest.raises(RuntimeError, match="inside Lambda"):
        handler({}, Context())
