"""What every request and answer has, whoever answers: an id, the caller's attributes, an error's form, a count, a log line."""

import json
import re
import time
import uuid
from typing import Any

from containers.core import logs
from containers.serve import telemetry
from containers.serve.errors import described

log = logs.get("containers.serve.app")

ATTRIBUTES, INFERENCE_ID, REQUEST_ID = "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id", "X-Request-Id"
_QUIET = {"/ping", "/metrics"}


def request_id(inference_id: str) -> str:
    """The caller's own id as far as it can be printed, else a new one."""
    return re.sub(r"[^\x21-\x7e]", "", inference_id)[:64] or uuid.uuid4().hex


def headers(identity: str, attributes: str) -> list[tuple[str, str]]:
    """Of every answer: its request's id, and the custom attributes that came with it, if they are fit for a header."""
    fit = attributes and attributes.isascii() and attributes.isprintable()
    return [(REQUEST_ID, identity), *([(ATTRIBUTES, attributes[:1024])] if fit else [])]


def error_body(kind: str, message: str, identity: str) -> str:
    return json.dumps({"error": described(kind, message) | {"request_id": identity}})


def record(route: str, status: int, started: float, identity: str, **fields: Any) -> None:
    """Count an answer, and log it unless it is of the quiet kind. `started`: time.perf_counter()."""
    telemetry.REQUESTS.labels(route, str(status)).inc()
    if route in _QUIET:
        return
    seconds = time.perf_counter() - started
    if route.endswith(("/invocations", "/invoke")):
        telemetry.REQUEST_SECONDS.observe(seconds)
    told = {"request_id": identity, "route": route, "status": status, "ms": round(seconds * 1000, 1), **fields}
    log.info("request", extra=told)
