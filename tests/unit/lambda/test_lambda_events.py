"""Whatever JSON comes as the event, its caller gets an answer, and no wrong part of it is an error of the function."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.lambda_events import BASE64, PHOTO, S3, Context, Runtime, balancer_event, function, rest_event, url_event

KEY = "photos/a.png"
RECORD = {"eventSource": "aws:s3", "s3": {"bucket": {"name": "inbox"}, "object": {"key": KEY}}}
EVENTS = [
    {"image": BASE64, "content_type": "image/png", "model": "pug.tar.gz"},
    {"s3": f"s3://inbox/{KEY}", "content_type": "image/png"},
    {"instances": [{"b64": BASE64}]},
    {"Records": [RECORD]},
    {"Event": "s3:TestEvent"},
    {"warmup": True},
    {"source": "aws.events"},
    url_event(accept="application/json", x_amzn_sagemaker_target_model="pug.tar.gz"),
    url_event(json.dumps({"image": BASE64}), is_base64=False, content_type="application/json"),
    url_event() | {"requestContext": {"http": {"method": "POST"}}, "multiValueHeaders": {"accept": ["image/png"]}},
    url_event(method="GET", path="/health"),
    rest_event(Origin="https://dogs.example"),
    rest_event(method="OPTIONS", Origin="https://dogs.example"),
    balancer_event(),
]


def places(document: Any, above: tuple = ()) -> Iterator[tuple]:
    """The way to every part of a JSON document, from the whole down."""
    yield above
    for step in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield from places(document[step], (*above, step))


def with_part(document: Any, place: tuple, part: Any) -> Any:
    if not place:
        return part
    copy = document.copy()
    copy[place[0]] = with_part(document[place[0]], place[1:], part)
    return copy


NAMES = sorted({step for event in EVENTS for place in places(event) for step in place if isinstance(step, str)})
HALF = "\ud800"  # of a surrogate pair: JSON may say it, UTF-8 cannot
WORDS = st.sampled_from(
    ["", "POST", "GET", "aws:s3", "image/png", "application/json", f"s3://inbox/{KEY}", f"s3://inbox/photos/{HALF}"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()) | WORDS
ANYTHING = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), part, max_size=4),
    max_leaves=8,
)


@st.composite
def almost_events(draw: st.DrawFn) -> Any:
    """An event in which up to three parts are something else."""
    event = draw(st.sampled_from(EVENTS))
    for _ in range(draw(st.integers(1, 3))):
        event = with_part(event, draw(st.sampled_from(list(places(event)))), draw(ANYTHING))
    return event


def deep() -> list:
    """Deeper than Python's JSON goes."""
    found: list = []
    for _ in range(100_000):
        found = [found]
    return found


@given(event=almost_events() | ANYTHING, many_models=st.booleans())
@example(event={"requestContext": {"http": "x"}}, many_models=False)
@example(event={"Records": ["x"]}, many_models=False)
@example(event={"Records": []}, many_models=False)
@example(event={"Records": [RECORD | {"s3": {"bucket": {"name": "inbox"}, "object": {"key": HALF}}}]}, many_models=False)
@example(event=url_event(HALF, is_base64=False, content_type="application/json"), many_models=False)
@example(event={"s3": f"s3://inbox/photos/{HALF}"}, many_models=False)
def test_any_json_is_answered(event, many_models):
    runtime, s3 = Runtime(), S3({KEY: PHOTO})
    settings = {"input_bucket": "inbox", "input_prefix": "photos/", "cors_origins": ("https://dogs.example",)}
    answer = function(runtime, s3, many_models=many_models, **settings)(event, Context())
    json.dumps(answer, ensure_ascii=False).encode()  # as AWS's runtime client does
    for one in answer.get("results", [answer]):
        assert 200 <= one["statusCode"] < 500
        assert isinstance(one["body"], str)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"requestContext": {"http": "x"}}, "http of the event must be a JSON object, not str"),
        ({"requestContext": ["http"]}, "requestContext of the event must be a JSON object, not list"),
        ({"requestContext": {"http": {"method": 7}}}, "method of the event must be text, not int"),
        ({"requestContext": {"http": {}, "domainName": 7}}, "domainName of the event must be text"),
        ({"httpMethod": ["POST"]}, "httpMethod of the event must be text"),
        (url_event() | {"rawPath": 7}, "rawPath of the event must be text"),
        (url_event() | {"headers": ["content-type"]}, "headers of the event must be a JSON object, not list"),
        (rest_event() | {"multiValueHeaders": ["accept"]}, "multiValueHeaders of the event must be"),
        (rest_event() | {"multiValueHeaders": {"accept": "image/png"}}, "accept of the event must be a list, not str"),
        (url_event() | {"body": {"image": BASE64}}, "body of the event must be text, not dict"),
        (url_event() | {"isBase64Encoded": "false"}, "isBase64Encoded of the event must be true or false, not str"),
        (url_event() | {"body": None}, "the body is empty"),
        (url_event(HALF, is_base64=False, content_type="text/plain"), "the body is not Unicode text"),
        ({"s3": f"s3://inbox/photos/{HALF}"}, "s3 is not Unicode text"),
        ({"instances": deep()}, "nested too deeply"),
        ({"Records": []}, "neither"),
        ({"Records": ["x"]}, "neither"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "neither"),
        (
            {"Records": [RECORD, {"eventSource": "aws:s3", "s3": {"bucket": {"name": "inbox"}, "object": {"key": 7}}}]},
            "neither",
        ),
    ],
)
def test_the_part_that_is_wrong_is_named(event, says):
    runtime, s3 = Runtime(), S3({KEY: PHOTO})
    answer = function(runtime, s3, input_bucket="inbox", input_prefix="photos/")(event, Context())
    assert answer["statusCode"] == 400
    assert says in json.loads(answer["body"])["error"]["message"]
    assert runtime.calls == []


def test_null_is_as_good_as_absent():
    runtime = Runtime()
    nulls = dict.fromkeys(["multiValueHeaders", "rawPath", "requestContext"]) | {
        "httpMethod": None,
        "headers": {"accept": None},
    }
    assert function(runtime)(nulls | {"body": BASE64, "isBase64Encoded": True}, Context())["statusCode"] == 200
    assert "Accept" not in runtime.calls[0]
    assert runtime.calls[0]["Body"] == PHOTO
