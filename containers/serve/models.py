"""SageMaker's multi-model endpoint: load, list, get, unload, invoke, over any number of models.

Each loaded model is a complete single-model server of its own (`registry`), and this front passes invocations on. So a model
keeps every promise of a single one, cannot harm its neighbours, and unloading it frees its memory for certain. Which model must
go when memory is short is SageMaker's decision: it is told 507.
Contract: developer guide, "Custom containers contract for multi-model endpoints".
"""

import json
import re
import sys
import time

from flask import Flask, Response, g, request
from werkzeug.routing import PathConverter

from containers.serve import child, openapi, telemetry
from containers.serve.app import base_app, json_response, read_body
from containers.serve.body_memory import BodyMemory
from containers.serve.config import ServeConfig
from containers.serve.errors import BadRequest, ModelFailed, NotFound, NotReady
from containers.serve.exchange import ATTRIBUTES, INFERENCE_ID
from containers.serve.health import Health
from containers.serve.places import Places
from containers.serve.registry import Model, Registry, ask
from containers.serve.sizing import LOADS, UNLOADS, Sizing

_PAGE = 100
_LATE_SECONDS = 5.0  # beyond the deadline: for the model's own answer that it has come
_MOST_BYTES = 100_000
_LONGEST = 4096  # bytes of a name or a path; a request line has no room for a longer name, Linux none for a longer path


class _Name(PathConverter):
    """A model's name where it ends the path: what ends in /invoke is another route, whatever the method."""

    regex = r"(?!.+/invoke$)[^/].*?"


def build(number: int, config: ServeConfig, sizing: Sizing, health: Health) -> Flask:
    """The application of the multi-model front; healthy also without any model."""
    registry = Registry(config)
    invokers, loaders, unloaders = Places(sizing.invocations), Places(LOADS), Places(UNLOADS)  # /ping finds a thread
    bodies = BodyMemory(config.body_memory_bytes)
    gauges = telemetry.Now(
        {"kennel_models_loaded": ("Models loaded now", lambda: len(registry.page(0, sys.maxsize)[0]))},
        lambda: [(model.name, model.metrics) for model in registry.page(0, sys.maxsize)[0] if model.metrics],
    )
    app = base_app(lambda: not health.draining, gauges, openapi.multi_model())
    app.url_map.converters["model"] = _Name
    app.url_map.merge_slashes = False  # a name may hold two in a row, and to be sent elsewhere is no answer

    @app.post("/models")
    def load() -> Response:
        loaders.take()
        name, url = _wanted()
        _note(name)
        registry.load(name, url)
        return json_response({"modelName": name, "modelUrl": url})

    @app.get("/models")
    def list_models() -> Response:
        after, count = _number("next_page_token", 0), _number("limit", _PAGE)
        if count == 0:
            raise BadRequest("limit must be 1 or more")
        models, following = registry.page(after, min(count, 1000))
        answer: dict[str, object] = {"models": [_described(model) for model in models]}
        return json_response(answer if following is None else answer | {"nextPageToken": str(following)})

    @app.get("/models/<model:name>")
    def get(name: str) -> Response:
        try:
            return json_response(_described(registry.get(name)))
        except NotReady as error:  # GET /models does not name it either
            raise NotFound(str(error)) from None

    @app.delete("/models/<model:name>")
    def unload(name: str) -> Response:
        _note(name)
        unloaders.take()
        registry.unload(name)
        return json_response({})

    @app.post("/models/<path:name>/invoke")
    def invoke(name: str) -> Response:
        _note(name)
        registry.get(name)
        deadline = time.monotonic() + config.request_timeout_seconds
        kept = ("Content-Type", "Accept", ATTRIBUTES)
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        headers |= {INFERENCE_ID: g.request_id, child.DEADLINE: repr(deadline)}
        invokers.take(name)
        with bodies.share(name) as reserve:
            body = read_body(config.max_body_bytes, reserve)
            model = registry.get(name)  # it may have been unloaded while the body came
            try:
                patience = max(0.0, deadline - time.monotonic()) + _LATE_SECONDS
                answer = ask(model, "POST", "/invocations", body, headers, patience)
            except OSError as error:
                if model.leaving:
                    raise NotFound(f"model {model.name[:100]} was unloaded") from error
                raise ModelFailed(f"the model's server broke off: {error}") from error
        passed = {
            name: answer.headers[name.lower()] for name in ("Content-Type", "Retry-After") if name.lower() in answer.headers
        }
        return Response(answer.body, answer.status, passed)

    return app


def _wanted() -> tuple[str, str]:
    """Name and URL of the model that a load asks for. Raises BadRequest."""
    try:
        document = json.loads(read_body(_MOST_BYTES))
        name, url = document["model_name"], document["url"]
        fit = name.isprintable() and url.startswith("/") and "\0" not in url
        fit = fit and not (name.startswith("/") or name.endswith("/invoke"))  # which no path could say
        fit = fit and all(0 < len(text.encode()) < _LONGEST for text in (name, url))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        fit = False
    if not fit:
        raise BadRequest(
            'the JSON must be {"model_name": "…", "url": "/opt/ml/models/…/model"}, the URL a path from /; the name neither '
            "begins with / nor ends in /invoke"
        )
    return name, url


def _number(name: str, default: int) -> int:
    """A parameter of the query. Raises BadRequest."""
    sent = request.args.getlist(name)
    if not sent:
        return default
    if len(sent) > 1 or not re.fullmatch("[0-9]{1,18}", sent[0]):
        raise BadRequest(f"{name} must be one number (next_page_token: the one that GET /models gave)")
    return int(sent[0])


def _note(name: str) -> None:
    """Have the request's log line name the model."""
    g.context = {"model_name": name[:_LONGEST]}


def _described(model: Model) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}
