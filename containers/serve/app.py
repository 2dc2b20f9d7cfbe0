"""The Flask application of one front: routes, the order of events of an invocation, and one place where errors become answers.

A front speaks HTTP and decodes photos. It never imports torch or an engine; the model is on the other side of the slots.
"""

import io
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from containers.core import logs
from containers.core.errors import Error
from containers.serve import admission, child, content_types, exchange, openapi, places, telemetry
from containers.serve.body_memory import BodyMemory, Reserve
from containers.serve.config import ServeConfig
from containers.serve.content_types import Labels
from containers.serve.errors import BadRequest, NotReady, RequestError, ServiceError, TooLarge, TooSlow
from containers.serve.front_worker import body_limits
from containers.serve.health import Health
from containers.serve.invocations import Classifier
from containers.serve.places import Places

log = logs.get(__name__)

HERE = Path(__file__).parent
_RECEIVE_SECONDS = 10.0  # a client that sends nothing for so long has lost its turn
_UPLOAD_SECONDS = 30.0
_SLOWEST_UPLOAD = 1 << 20  # bytes per second, where that gives a body longer: asynchronous inference has 1 GB
_CHUNK = 1 << 20
_OVER_LIMIT = "the body is larger than the limit (SERVE_MAX_BODY_MB)"


@dataclass(frozen=True)
class Front:
    """What one front needs. `readers` bounds the requests that may hold a thread until they are answered, so that `/ping`
    always finds one, and `bodies` the memory of what they send."""

    config: ServeConfig
    health: Health
    labels: Labels
    classifier: Classifier
    readers: Places
    bodies: BodyMemory
    gauges: telemetry.Now

    def is_serving(self) -> bool:
        return not self.health.draining and self.has_model()

    def has_model(self) -> bool:
        return self.health.serving(self.config.stuck_after_seconds) > 0

    def is_full(self) -> bool:
        """Whether every request must be refused now: not for want of a model, which another answer tells."""
        return self.classifier.is_full() and self.has_model()


def base_app(is_serving: Callable[[], bool], gauges: telemetry.Now, described: dict[str, Any]) -> Flask:
    """What every kind of server has: `/ping`, `/metrics`, its OpenAPI document, and the one way from errors to answers.

    Every error is answered with JSON under 2,048 characters, without a traceback.
    """
    app = Flask(__name__, static_folder=None)
    document = json.dumps(described)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200 if is_serving() else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(telemetry.exposition(gauges), content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    def openapi_document() -> Response:
        return Response(document, content_type="application/json")

    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)
    app.wsgi_app = places.given_back(app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def create_app(front: Front) -> Flask:
    """The WSGI application of a front that serves one model."""
    app = base_app(front.is_serving, front.gauges, openapi.single_model())
    page = (HERE / "page" / "index.html").read_bytes()

    @app.post("/invocations")
    def invocations() -> Response:
        front.readers.take()
        with front.bodies.share() as reserve:
            return _invoke(front, reserve)

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        """SageMaker's batch transform asks how it should send: as much at once as its limit of 100 MB and the slots allow."""
        payload = max(1, int(min(front.config.transform_payload_mb, front.config.max_body_mb)))
        at_once = min(100 // payload, front.classifier.slots)
        return json_response({"MaxConcurrentTransforms": at_once, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": payload})

    @app.get("/")
    def try_it() -> Response:
        return Response(page, content_type="text/html; charset=utf-8")

    app.wsgi_app = admission.refuse_when(front.is_full, app.wsgi_app)  # type: ignore[assignment, method-assign]
    return app


def _invoke(front: Front, reserve: Reserve) -> Response:
    if not front.has_model():
        raise NotReady("no model is ready yet, or it is being replaced: try again when GET /ping says 200")
    latest = time.monotonic() + front.config.request_timeout_seconds
    deadline = min(latest, child.deadline(request.headers.get(child.DEADLINE)))
    kind, options = content_types.kind_of(request.headers.get("Content-Type"))
    media_type = content_types.choose_writer(request.accept_mimetypes, kind)
    body = content_types.Body(read_body(front.config.max_body_bytes, reserve), options, front.config.max_instances)
    items = kind.read(body)
    g.photos = len(items)
    outcomes = front.classifier.classify(items, deadline)
    for outcome in outcomes:
        telemetry.PHOTOS.labels(outcome.kind if isinstance(outcome, Error) else "classified").inc()
    if kind.single and isinstance(outcomes[0], Error):
        raise outcomes[0]
    return Response(content_types.WRITERS[media_type](outcomes, front.labels), content_type=media_type)


def read_body(limit: int, reserve: Reserve = lambda count: None) -> bytes:
    """The request's body. Raises TooLarge over `limit` bytes, TooSlow, and BadRequest for one that is cut short or malformed.

    `reserve` is called before memory is taken, with the bytes, and may raise.
    Not through Flask, which cannot tell a client that is slow from one that is gone.
    """
    announced = request.content_length or 0
    if announced > limit:
        raise TooLarge(_OVER_LIMIT)
    reserve(announced)
    patience = max(_UPLOAD_SECONDS, (announced or limit) / _SLOWEST_UPLOAD)
    late = time.monotonic() + patience
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(_RECEIVE_SECONDS)
        body_limits[connection] = late
    body = io.BytesIO()  # which gives its bytes away without a copy
    size = 0
    try:
        while part := request.environ["wsgi.input"].read(_CHUNK):
            size += len(part)
            if size > limit:
                raise TooLarge(_OVER_LIMIT)
            if not announced:
                reserve(len(part))
            body.write(part)
    except TimeoutError:
        raise TooSlow(f"no byte of the body arrived for {_RECEIVE_SECONDS:.0f} s") from None
    except (OSError, ParseException) as error:
        if time.monotonic() <= late:
            raise BadRequest(f"the body is cut short or malformed: {error}") from None
    finally:
        if connection is not None:
            body_limits.pop(connection, None)
    if time.monotonic() > late:
        raise TooSlow(f"the body did not arrive within {patience:.0f} s")
    if size < announced:
        raise BadRequest("the body is shorter than its Content-Length")
    g.bytes = size
    return body.getvalue()


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = exchange.request_id(request.headers.get(exchange.INFERENCE_ID, ""))


def _finish(response: Response) -> Response:
    response.headers.extend(exchange.headers(g.request_id, request.headers.get(exchange.ATTRIBUTES, "")))
    route = request.url_rule.rule if request.url_rule else "unknown"
    noted = {name: g.get(name) for name in ("bytes", "photos", "error")} | g.get("context", {})
    exchange.record(route, response.status_code, g.started, g.request_id, **noted)
    return response


def _answer_error(error: Exception) -> Response:
    """The one place where an exception becomes an HTTP answer."""
    if isinstance(error, HTTPException):
        status = error.code or 500
        kind, message = type(error).__name__, str(getattr(error, "description", error))
    elif isinstance(error, RequestError | ServiceError):
        status, kind, message = error.status, error.kind, str(error)
    else:
        log.exception("unexpected error", extra={"request_id": g.get("request_id")})
        status, kind, message = 500, "InternalError", "the server made a mistake; its log has the reason under this request id"
    g.error = kind
    response = Response(exchange.error_body(kind, message, g.get("request_id", "")), status, content_type="application/json")
    if isinstance(error, ServiceError) and error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, HTTPException) and error.code == 405 and getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))  # type: ignore[attr-defined]
    return response


def json_response(document: object, status: int = 200) -> Response:
    return Response(json.dumps(document), status, content_type="application/json")
