"""AWS Lambda in front of the SageMaker endpoint: an event with a photo in, the endpoint's answer out.

Handler: `invoke_endpoint.handler`. This directory is the zip; it needs boto3, which the Lambda runtime brings. Events:

    {"image": "<base64>", "content_type": "image/jpeg"}           direct call, or a JSON body of any of the next
    {"s3": "s3://BUCKET/PREFIX/photo.jpg"}                        likewise
    "model": "NAME.tar.gz" beside either, or the header           which of many models, where the endpoint has many
    X-Amzn-SageMaker-Target-Model: NAME.tar.gz
    API Gateway REST (v1) · HTTP API (v2) · function URL · load balancer: POST with the photo as the body
    S3 notification                                               each object below the prefix; answers for a destination
    {"warmup": true} · scheduled events · GET /health             answered here, the endpoint is not called

The answer is always {"statusCode", "headers", "body", "isBase64Encoded"}. What the endpoint said keeps its status and message.

Time is nested: connect (2 s) + READ_TIMEOUT_SECONDS + 1 s must fit into the function's own timeout; when what is left is
less, nothing is sent and the answer is 504. Only what the model has not worked on is tried again.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import lambda_events
from lambda_errors import Refused, translate
from lambda_events import Event, Request
from lambda_settings import Settings

CONNECT_TIMEOUT_SECONDS = 2.0
RESERVE_SECONDS = 1.0  # to encode and send the answer
MEGABYTE = 1024 * 1024
S3_UNTYPED = "binary/octet-stream"  # what S3 says of an object stored without a type; no server knows it
MODEL_HEADER = "x-amzn-sagemaker-target-model"  # SageMaker's own name for it, in small letters
# what a page may send: beside ours, what API Gateway's authorizers, keys and IAM want to see
PAGE_HEADERS = (
    f"content-type, accept, {MODEL_HEADER}, authorization, x-api-key, x-amz-content-sha256, x-amz-date, x-amz-security-token"
)


class TryAgain(Exception):
    """Nobody waits for the answer to an S3 notification: Lambda delivers it again, at last to the failure destination."""


class Function:
    """The handler with its clients. `runtime` and `s3` are boto3 clients, `sleep` waits between attempts."""

    def __init__(self, settings: Settings, runtime: Any, s3: Any, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._runtime, self._s3, self._sleep = settings, runtime, s3, sleep
        self._needed_seconds = CONNECT_TIMEOUT_SECONDS + settings.read_timeout_seconds + RESERVE_SECONDS

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Function":
        """Clients are made once per execution environment; for the endpoint botocore's retries are off, `_invoke` decides."""
        settings = Settings.from_environment(environ)
        once = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=settings.read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        runtime = boto3.client("sagemaker-runtime", config=once)
        if not settings.input_bucket:
            return cls(settings, runtime, None)
        # two attempts to connect and read, and up to 1 s between them, fit into the time that a call is asked to have left
        wait = min(5.0, (settings.read_timeout_seconds + 1) / 4)
        twice = Config(connect_timeout=wait, read_timeout=wait, retries={"mode": "standard", "total_max_attempts": 2})
        return cls(settings, runtime, boto3.client("s3", config=twice))

    def __call__(self, event: Any, context: Any) -> Event:
        """The answer to one event. Raises TryAgain for an S3 notification whose photos could not all be tried."""
        pointers = lambda_events.s3_pointers(event)
        if pointers is None:
            return self._one(event, context)
        answers: list[Event] = [{"s3": pointer} | self._one({"s3": pointer}, context) for pointer in pointers]
        if late := [answer["s3"] for answer in answers if answer["statusCode"] in (429, 502, 503, 504)]:
            raise TryAgain(f"{len(late)} of {len(answers)} photos were not classified: {', '.join(late)[:500]}")
        return {"results": answers}

    def _one(self, event: Any, context: Any) -> Event:
        started = time.monotonic()
        request = Request(source="unknown")
        line: dict[str, Any] = {"event": "invocation", "request_id": context.aws_request_id}
        try:
            request = lambda_events.read(event)
            status, headers, body = self._answer(request, context, line)
        except Refused as refused:
            status, headers, body = refused.answer(context.aws_request_id)
            line |= {"error": refused.kind, "message": str(refused)[:500], "detail": refused.detail[:1000]}
        headers |= {"x-request-id": context.aws_request_id} | self._cors(request)
        line |= {"source": request.source, "status": status, "bytes_out": len(body)}
        _log("ERROR" if status >= 500 else "INFO", line | {"milliseconds": round((time.monotonic() - started) * 1000, 1)})
        return lambda_events.answer(request, status, headers, body)

    def _answer(self, request: Request, context: Any, line: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if request.method == "OPTIONS" and self._settings.cors_origins:
            return 204, {}, b""
        if request.method in ("GET", "HEAD") and request.path.rstrip("/").endswith(("/health", "/ping")):
            return 200, {"content-type": "application/json"}, b'{"status": "ok"}'
        if request.method != "POST":
            raise Refused(405, "NotAllowed", f"{request.method} is not supported: POST a photo, or GET /health")
        self._require_time(context)
        body, content_type, named = self._photo(request)
        how = {"ContentType": content_type, "Accept": request.headers.get("accept", "")}
        how["TargetModel"] = self._model(named, request.headers.get(MODEL_HEADER, ""))
        for header in how.values():
            if not (header.isascii() and header.isprintable() and len(header) <= 1024):  # SageMaker's limits
                raise Refused(400, "BadRequest", "Content-Type, Accept and the model's name must be one line of ASCII")
        line |= {"bytes_in": len(body), "model": how["TargetModel"]}
        self._check_size(len(body))
        answer, media_type = self._invoke(body, {name: value for name, value in how.items() if value}, context, line)
        lambda_events.require_carried(request, media_type, answer)
        return 200, {"content-type": media_type}, answer

    def _photo(self, request: Request) -> tuple[bytes, str, Any]:
        """(bytes for the endpoint, media type, what the body has as "model").

        Follows `image` and `s3` of a JSON body, passes other JSON on.
        """
        body = request.body()
        if request.media_type != "application/json":
            return body, request.content_type, ""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or a number of more digits than Python reads
            raise Refused(400, "BadRequest", f"the body is not JSON: {error}") from None
        document = document if isinstance(document, dict) else {}
        content_type, model = document.get("content_type"), document.get("model")
        if not isinstance(content_type, str | None):
            raise Refused(400, "BadRequest", "content_type must be a text such as image/jpeg")
        if isinstance(document.get("image"), str):
            return lambda_events.decode(document["image"], "image"), content_type or "application/octet-stream", model
        if isinstance(document.get("s3"), str):
            return *self._fetch(document["s3"], content_type), model
        if request.source == "direct" and "instances" not in document:
            raise Refused(400, "BadRequest", 'the event has neither "image" (base64) nor "s3" (s3://bucket/prefix/key)')
        return body, request.content_type, model

    def _model(self, in_body: Any, in_header: str) -> str:
        """TargetModel of the call; empty where the endpoint serves one model. Who names one there means another answer."""
        says = in_body not in (None, "")
        named = in_body if says else in_header
        if named != "" and not self._settings.many_models:
            where = '"model" in the JSON body' if says else "the header X-Amzn-SageMaker-Target-Model"
            remedy = 'MANY_MODELS of this function must be true ([endpoint] kind = "multi-model" in the stage\'s file)'
            raise Refused(400, "BadRequest", f"this endpoint serves one model: leave {where} out; if it serves many, {remedy}")
        if not isinstance(named, str):
            raise Refused(400, "BadRequest", "model must be a text such as NAME.tar.gz")
        model = (named or self._settings.target_model).strip()
        if self._settings.many_models and not model:
            how = 'in "model" of a JSON body or in the header X-Amzn-SageMaker-Target-Model'
            raise Refused(400, "BadRequest", f"this endpoint serves many models: name one (NAME.tar.gz) {how}")
        return model

    def _fetch(self, pointer: str, content_type: str | None) -> tuple[bytes, str]:
        """Only objects below the configured bucket and prefix are read, whatever this function's role would allow."""
        bucket, prefix = self._settings.input_bucket, self._settings.input_prefix
        if self._s3 is None:
            raise Refused(403, "Forbidden", "this function does not read from S3: send the photo itself")
        if not pointer.startswith(f"s3://{bucket}/{prefix}") or ".." in pointer.split("/"):  # HTTP clients may resolve ..
            raise Refused(403, "Forbidden", f"only objects below s3://{bucket}/{prefix} may be named")
        lambda_events.utf8(pointer, "s3")
        try:
            found = self._s3.get_object(Bucket=bucket, Key=pointer.removeprefix(f"s3://{bucket}/"))
            self._check_size(found["ContentLength"])
            stored = found.get("ContentType", "").replace(S3_UNTYPED, "application/octet-stream")
            return found["Body"].read(), content_type or stored or "application/octet-stream"
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "AccessDenied"):  # S3 denies where it may not tell
                raise Refused(404, "NotFound", "no such object, or this function may not read it", detail=str(error)) from error
            raise Refused(502, "BadGateway", "S3 could not be read", detail=str(error)) from error
        except BotoCoreError as error:
            raise Refused(502, "BadGateway", "S3 could not be read", detail=str(error)) from error

    def _check_size(self, size: int) -> None:
        if size == 0:
            raise Refused(400, "BadRequest", "the body is empty: POST the bytes of a photo")
        if size > self._settings.max_body_mb * MEGABYTE:
            raise Refused(413, "TooLarge", f"{size} bytes; at most {self._settings.max_body_mb:g} MB are accepted")

    def _seconds_left(self, context: Any) -> float:
        return float(context.get_remaining_time_in_millis()) / 1000

    def _require_time(self, context: Any) -> None:
        if (left := self._seconds_left(context)) < self._needed_seconds:
            detail = f"{left:.1f} s of {self._needed_seconds:.1f} s: raise the function's timeout or lower READ_TIMEOUT_SECONDS"
            raise Refused(504, "DeadlineExceeded", "too little of this function's time is left for a call", detail=detail)

    def _invoke(self, body: bytes, how: dict[str, str], context: Any, line: dict[str, Any]) -> tuple[bytes, str]:
        """(answer, its media type). `how`: InvokeEndpoint's headers. Raises the Refused of the last attempt."""
        call = {"EndpointName": self._settings.endpoint_name, "Body": body, "InferenceId": context.aws_request_id} | how
        self._require_time(context)
        attempt = 1
        while True:
            line["attempts"] = attempt
            try:
                response = self._runtime.invoke_endpoint(**call)
                return response["Body"].read(), response.get("ContentType", "application/octet-stream")
            except (ClientError, BotoCoreError) as error:
                refused = translate(error)
                pause = random.uniform(0, 0.2 * 2**attempt)
                too_late = self._seconds_left(context) - pause < self._needed_seconds
                if not refused.again or attempt >= self._settings.max_attempts or too_late:
                    raise refused from error
            self._sleep(pause)
            attempt += 1

    def _cors(self, request: Request) -> dict[str, str]:
        origins, origin = self._settings.cors_origins, request.headers.get("origin", "")
        if request.source not in ("rest_api", "http_api") or not {"*", origin} & set(origins):
            return {}
        headers = {"access-control-allow-origin": "*" if "*" in origins else origin, "vary": "origin"}
        if request.method == "OPTIONS":
            headers |= {"access-control-allow-methods": "POST, GET, OPTIONS", "access-control-max-age": "3600"}
            headers["access-control-allow-headers"] = PAGE_HEADERS
        return headers


def _log(level: str, fields: dict[str, Any]) -> None:
    """One JSON line; never the photo or the answer."""
    sys.stdout.write(json.dumps({"level": level} | {key: value for key, value in fields.items() if value != ""}) + "\n")
    sys.stdout.flush()


# Inside Lambda this runs at cold start, so a wrong environment fails there, with its reason, not at the first request.
_function = Function.from_environment(os.environ) if "AWS_LAMBDA_RUNTIME_API" in os.environ else None


def handler(event: Any, context: Any) -> Event:
    """What Lambda calls."""
    if _function is None:
        raise RuntimeError("handler runs inside Lambda; elsewhere make a Function")
    return _function(event, context)
