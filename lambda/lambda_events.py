"""The kinds of event Lambda is called with, brought to one form, and the answer back. Part of the zip of `invoke_endpoint`."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from lambda_errors import Refused

Event = dict[str, Any]
_ENVELOPE_BYTES = 64 * 1024  # room for status and headers
_GROWS_AT_MOST = 6  # a control character becomes \u0000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One event, whatever its kind. Header names are in small letters."""

    source: str
    method: str = "POST"
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    is_base64: bool = False
    many_headers: bool = False
    """The load balancer wants `multiValueHeaders` back."""

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "application/octet-stream")

    @property
    def media_type(self) -> str:
        return self.content_type.split(";")[0].strip().lower()

    @property
    def answer_megabytes(self) -> int:
        """Lambda's limit for a synchronous answer, or a load balancer's (ELB guide, "Lambda functions as targets")."""
        return 1 if self.source == "load_balancer" else 6

    def body(self) -> bytes:
        """Raises Refused(400) when the body is not the base64 it has to be, or no Unicode."""
        if self.is_base64:
            return decode(self.text, "the body")
        if self.media_type.startswith("image/") and self.text:
            # Lambda events are JSON: a photo that comes as text is base64, or was broken by an API that took it for text
            return decode(self.text, "the body (send base64 text, or list image/* in the API's binaryMediaTypes)")
        return utf8(self.text, "the body")


def s3_pointers(event: Any) -> list[str] | None:
    """`s3://bucket/key` of each object in an S3 notification (keys arrive form-encoded: `a+b.jpg`).

    None for other events, and for what only resembles one.
    """
    if not isinstance(event, dict):
        return None
    if event.get("Event") == "s3:TestEvent":  # S3 sends it when a notification is set up
        return []
    records = event.get("Records")
    if not isinstance(records, list) or not records:
        return None
    try:
        if not all(record["eventSource"] == "aws:s3" for record in records):
            return None
        objects = [record["s3"] for record in records]
        pointers = [f"s3://{one['bucket']['name']}/{unquote_plus(one['object']['key'])}" for one in objects]
        utf8("".join(pointers), "s3")
    except (AttributeError, KeyError, TypeError, Refused):
        return None
    return pointers


def read(event: Any) -> Request:
    """Anything that is not a known HTTP event is a direct call. Raises Refused(400) naming what in `event` cannot be used."""
    if not isinstance(event, dict):
        raise Refused(400, "BadRequest", f"the event must be a JSON object, not {type(event).__name__}")
    context = _part(event, "requestContext", {})
    if "http" in context:
        source = "function_url" if ".lambda-url." in _part(context, "domainName", "") else "http_api"
        method, path = _part(_part(context, "http", {}), "method", "POST"), _part(event, "rawPath", "/")
    elif "httpMethod" in event:
        source = "load_balancer" if "elb" in context else "rest_api"
        method, path = _part(event, "httpMethod", "POST"), _part(event, "path", "/")
    elif event.get("warmup") or event.get("source") == "aws.events":
        return Request(source="warmup", method="GET", path="/health")
    else:
        return Request(source="direct", headers={"content-type": "application/json"}, text=_json(event))
    return Request(
        source=source,
        method=method.upper(),
        path=path,
        headers=_headers(event),
        text=_part(event, "body", ""),
        is_base64=_part(event, "isBase64Encoded", False),
        many_headers=bool(event.get("multiValueHeaders")),
    )


def _headers(event: Event) -> dict[str, str]:
    many = _part(event, "multiValueHeaders", {})
    last = {name: values[-1] for name in many if (values := _part(many, name, []))}
    both = last | _part(event, "headers", {})
    return {name.lower(): str(value) for name, value in both.items() if value is not None}


_KINDS = {dict: "a JSON object", list: "a list", str: "text", bool: "true or false"}


def _part(of: Event, name: str, absent: Any) -> Any:
    """`of[name]`; `absent` where it is missing or null. Raises Refused(400) when it is of another type than `absent`."""
    value = of.get(name)
    if value is None:
        return absent
    if not isinstance(value, type(absent)):
        raise Refused(400, "BadRequest", f"{name} of the event must be {_KINDS[type(absent)]}, not {type(value).__name__}")
    return value


def _json(event: Event) -> str:
    try:
        return json.dumps(event)
    except RecursionError:
        raise Refused(400, "BadRequest", "the event is nested too deeply") from None


def utf8(text: str, what: str) -> bytes:
    """Raises Refused(400) naming `what` when half of a surrogate pair is in it: JSON can hold that, UTF-8 cannot."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Refused(400, "BadRequest", f"{what} is not Unicode text") from None


def decode(text: str, what: str) -> bytes:
    """Base64, with or without line breaks or a `data:…;base64,` in front. Raises Refused(400) naming `what`."""
    try:
        return base64.b64decode(re.sub(r"\s+", "", text.rpartition(";base64,")[2]), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "BadRequest", f"{what} is not valid base64") from None


def require_carried(request: Request, media_type: str, body: bytes) -> None:
    """Raises Refused(502) when the answer with `body` is more JSON than the way back carries.

    The limit counts what the runtime writes (awslambdaric, lambda_runtime_marshaller): quotes, backslashes and control
    characters escaped, others as UTF-8 from Python 3.12 on. A small body needs no counting.
    """
    limit = request.answer_megabytes * 1024 * 1024 - _ENVELOPE_BYTES
    if len(body) * _GROWS_AT_MOST <= limit:
        return
    size = len(json.dumps(_text(media_type, body)[0], ensure_ascii=False).encode())
    if size > limit:
        says = f"the endpoint answered {len(body)} bytes, {size} as JSON; at most {request.answer_megabytes} MB can be returned"
        raise Refused(502, "AnswerTooLarge", f"{says}: send fewer photos in one request")


def answer(request: Request, status: int, headers: dict[str, str], body: bytes) -> Event:
    """What Lambda returns: text as text, anything else as base64."""
    text, is_base64 = _text(headers.get("content-type", ""), body)
    event: Event = {"statusCode": status, "headers": headers, "body": text, "isBase64Encoded": is_base64}
    if request.many_headers:
        event["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    return event


def _text(content_type: str, body: bytes) -> tuple[str, bool]:
    """(`body` as JSON can hold it, whether that is base64)."""
    media_type = content_type.split(";")[0]
    if not body or media_type.startswith("text/") or media_type in ("application/json", "application/jsonlines"):
        return body.decode("utf-8", "replace"), False
    return base64.b64encode(body).decode(), True
