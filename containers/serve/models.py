"""SageMaker's multi-model endpoint: load, list, get, unload, invoke, over any number of models.

Each loaded model is a complete single-model server of its own (`registry`), and this front passes invocations on. So a model
keeps every promise of a single one, cannot harm its neighbours, and unloading it frees its memory for certain. Which model must
go when memory is short is SageMaker's decision: it is told 507.
Contract: developer guide, "Custom containers contract for multi-model endpoints".
"""

import sys
import threading

from flask import Flask, Response, request

from containers.serve import telemetry
from containers.serve.app import base_app, json_response, read_body
from containers.serve.config import ServeConfig
from containers.serve.errors import BadRequest, ModelFailed, Overloaded
from containers.serve.exchange import ATTRIBUTES, INFERENCE_ID
from containers.serve.health import Health
from containers.serve.registry import Model, Registry, ask
from containers.serve.sizing import Sizing

_PAGE = 100


def build(number: int, config: ServeConfig, sizing: Sizing, health: Health) -> Flask:
    """The application of the multi-model front; healthy also without any model."""
    registry = Registry(config)
    waiting = threading.BoundedSemaphore(sizing.slots_per_front)  # fewer than threads, so that /ping always finds one
    gauges = telemetry.Now({"kennel_models_loaded": ("Models loaded now", lambda: len(registry.page(0, sys.maxsize)[0]))})
    app = base_app(lambda: not health.draining, gauges)

    @app.post("/models")
    def load() -> Response:
        wanted = request.get_json(force=True, silent=True)
        name, url = (wanted.get("model_name"), wanted.get("url")) if isinstance(wanted, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(url, str) or not name or not url.startswith("/") or "\0" in url:
            raise BadRequest('the JSON must be {"model_name": "…", "url": "/opt/ml/models/…/model"}, the URL a path from /')
        registry.load(name, url)
        return json_response({"modelName": name, "modelUrl": url})

    @app.get("/models")
    def list_models() -> Response:
        token = request.args.get("next_page_token", "0")
        if not token.isdecimal():
            raise BadRequest("next_page_token must be one that GET /models gave")
        count = request.args.get("limit", _PAGE, type=int)
        models, following = registry.page(int(token), max(1, min(count, 1000)))
        answer: dict[str, object] = {"models": [_described(model) for model in models]}
        return json_response(answer if following is None else answer | {"nextPageToken": str(following)})

    @app.get("/models/<path:name>")
    def get(name: str) -> Response:
        return json_response(_described(registry.get(name)))

    @app.delete("/models/<path:name>")
    def unload(name: str) -> Response:
        registry.unload(name)
        return json_response({})

    @app.post("/models/<path:name>/invoke")
    def invoke(name: str) -> Response:
        model = registry.get(name)
        kept = ("Content-Type", "Accept", ATTRIBUTES, INFERENCE_ID)
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        if not waiting.acquire(blocking=False):
            raise Overloaded("every request thread is taken: try again in a moment, or add instances")
        try:
            body = read_body(int(config.max_body_mb * 1024 * 1024))
            answer = ask(model, "POST", "/invocations", body, headers, config.request_timeout_seconds + 5)
        except OSError as error:
            raise ModelFailed(f"the model's server broke off: {error}") from error
        finally:
            waiting.release()
        passed = {
            name: answer.headers[name.lower()] for name in ("Content-Type", "Retry-After") if name.lower() in answer.headers
        }
        return Response(answer.body, answer.status, passed)

    return app


def _described(model: Model) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}
