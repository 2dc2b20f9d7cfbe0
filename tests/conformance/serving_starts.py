"""The inference contract, in containers that are started otherwise: no network, no model, another port, several models."""

import contextlib
import http.client
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from docker.models.containers import Container

from tests.conformance.report import GUIDE, NotTried, Report, require
from tests.conformance.server import INFERENCE, Serving, Up, ask
from tests.support import engine

MULTI_MODEL = GUIDE + "mms-container-apis.html"
BUILD_MULTI = GUIDE + "build-multi-model-build-container.html"
ISOLATION = GUIDE + "mkt-algo-model-internet-free.html"


def check(target: Serving, server: Up, report: Report) -> None:
    """`server` tells whether the image starts and answers at all."""
    _starts(target, server, report)
    _labels(target, server, report)


def _starts(target: Serving, server: Up, report: Report) -> None:
    with (
        report.advice("works without any way out to the network (EnableNetworkIsolation)", ISOLATION),
        _answering(server),
        engine.network(target.client) as bridge,
        target.started(network=bridge.name) as (box, url),
    ):
        target.wait(box, url)
        status = target.invoke(url).status
        require(200 <= status < 300, f"/invocations answers {status}")
    with (
        report.advice("/ping is not 200 while there is no model: the check should mean something", INFERENCE),
        _answering(server),
    ):
        empty = Path(tempfile.mkdtemp(prefix="conformance-no-model-"))
        try:
            with target.started(model=empty) as (box, url):
                require(not _ever_ready(box, url, 20), "/ping answers 200 with an empty /opt/ml/model")
        finally:
            shutil.rmtree(empty)


@contextlib.contextmanager
def _answering(server: Up) -> Iterator[None]:
    server.need_answers()
    yield


def _ever_ready(box: Container, url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        box.reload()
        if box.status == "exited":
            return False
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(url, "GET", "/ping").status == 200:
                return True
        time.sleep(0.3)
    return False


def _labels(target: Serving, server: Up, report: Report) -> None:
    """What the image claims by its labels."""
    labels = target.client.images.get(target.image).labels
    claims = "com.amazonaws.sagemaker.capabilities."
    with report.rule("SAGEMAKER_BIND_TO_PORT is obeyed where the image's label says so", BUILD_MULTI):
        if labels.get(claims + "accept-bind-to-port") != "true":
            raise NotTried("the image has no label accept-bind-to-port=true")
        server.need_answers()
        environment = {"SAGEMAKER_BIND_TO_PORT": "9123", "SAGEMAKER_SAFE_PORT_RANGE": "23000-23999"}
        with target.started(port=9123, environment=environment) as (box, url):
            target.wait(box, url)
    with report.rule("a multi-model container starts with no model and serves the models API", MULTI_MODEL):
        if labels.get(claims + "multi-models") != "true":
            raise NotTried("the image has no label multi-models=true")
        server.need_answers()
        _multi_model(target)


def _multi_model(target: Serving) -> None:
    volumes = {str(target.model): {"bind": "/opt/ml/models/one/model", "mode": "ro"}}
    with target.started(environment={"SAGEMAKER_MULTI_MODEL": "true"}, volumes=volumes) as (box, url):
        target.wait(box, url)
        load = json.dumps({"model_name": "one", "url": "/opt/ml/models/one/model"}).encode()
        given = {"Content-Type": "application/json"}
        steps = [
            ("list", ask(url, "GET", "/models"), 200),
            ("unknown", ask(url, "GET", "/models/one"), 404),
            ("load", ask(url, "POST", "/models", load, given), 200),
            ("load again", ask(url, "POST", "/models", load, given), 409),
            ("get", ask(url, "GET", "/models/one"), 200),
            ("invoke", ask(url, "POST", "/models/one/invoke", target.payload, {"Content-Type": target.content_type}), 200),
            ("unload", ask(url, "DELETE", "/models/one"), 200),
            (
                "invoke unloaded",
                ask(url, "POST", "/models/one/invoke", target.payload, {"Content-Type": target.content_type}),
                404,
            ),
        ]
        wrong = [
            f"{name}: {answer.status}, not {wanted} {answer.body[:80]!r}"
            for name, answer, wanted in steps
            if answer.status != wanted
        ]
        require(not wrong, "; ".join(wrong))
