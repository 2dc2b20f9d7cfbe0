"""The inference contract: the image is run as `docker run IMAGE serve`, with a model in /opt/ml/model."""

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.models.containers import Container

from tests.conformance.report import API, GUIDE, NotTried, Report, require
from tests.support import engine

INFERENCE = GUIDE + "your-algorithms-inference-code.html"
BATCH = GUIDE + "your-algorithms-batch-code.html"
MULTI_MODEL = GUIDE + "mms-container-apis.html"
BUILD_MULTI = GUIDE + "build-multi-model-build-container.html"
WATCH = GUIDE + "monitoring-cloudwatch.html"
ISOLATION = GUIDE + "mkt-algo-model-internet-free.html"
INVOKE = API + "API_runtime_InvokeEndpoint.html"
PING_SECONDS, ACCEPT_SECONDS, INVOKE_SECONDS, STOP_SECONDS = 2.0, 0.25, 60.0, 30


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Serving:
    """`model` is an unpacked model directory, `payload` one request that it answers."""

    client: docker.DockerClient
    image: str
    model: Path
    payload: bytes
    content_type: str
    environment: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 480  # the guide's eight minutes
    stop_seconds: int = STOP_SECONDS

    @contextlib.contextmanager
    def started(self, *, model: Path | None = None, port: int = 8080, **options: Any) -> Iterator[tuple[Container, str]]:
        """The container, and its URL. The model is read-only, as on SageMaker."""
        volumes = {str(model or self.model): {"bind": "/opt/ml/model", "mode": "ro"}}
        environment = dict(self.environment) | options.pop("environment", {})
        published = {} if "network" in options else {"ports": {f"{port}/tcp": ("127.0.0.1", None)}}
        options = {"volumes": volumes, "environment": environment} | published | options
        with engine.container(self.client, self.image, "serve", **options) as box:
            if not published:
                address = engine.wait_until(lambda: _address(box), 30, "an address on its network")
                yield box, f"http://{address}:{port}"
            else:
                yield box, engine.url(box, port)

    def wait(self, box: Container, url: str) -> float:
        """Seconds until /ping answered 200."""
        begun = time.monotonic()

        def ready() -> bool:
            box.reload()
            if box.status == "exited":
                raise RuntimeError(f"ended before it was ready; its log ends:\n{engine.logs(box)[-600:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return ask(url, "GET", "/ping").status == 200
            return False

        engine.wait_until(ready, self.start_seconds, "200 from /ping")
        return time.monotonic() - begun

    def invoke(self, url: str, body: bytes | None = None, **headers: str) -> Answer:
        given = {"Content-Type": self.content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(url, "POST", "/invocations", self.payload if body is None else body, given)


def _address(box: Container) -> str:
    box.reload()
    networks = box.attrs["NetworkSettings"]["Networks"].values()
    return next((str(network["IPAddress"]) for network in networks if network["IPAddress"]), "")


def ask(url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=INVOKE_SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, content, found, time.monotonic() - begun)
    finally:
        connection.close()


def check(target: Serving, report: Report) -> None:
    with contextlib.ExitStack() as stack:
        with report.rule("`serve` answers GET /ping on port 8080 with 200 within the start-up window", INFERENCE):
            box, url = stack.enter_context(target.started())
            target.wait(box, url)
        if report.failed() and report.lines[-1].verdict == "fail":
            return
        _requests(target, url, report)
        _optional_routes(target, url, report)
        _stop(target, box, url, report)
    _starts(target, report)
    _labels(target, report)


def _requests(target: Serving, url: str, report: Report) -> None:
    with report.rule("the first request after the first 200 from /ping is answered within 60 s", INFERENCE):
        first = target.invoke(url)
        require(200 <= first.status < 300, f"{first.status}: {first.body[:200]!r}")
        require(first.seconds < INVOKE_SECONDS, f"{first.seconds:.1f} s")
    with report.rule("connections are accepted within 250 ms", INFERENCE):
        host, port = urlsplit(url).hostname, urlsplit(url).port
        begun = time.monotonic()
        socket.create_connection((host, port), timeout=5).close()
        require(time.monotonic() - begun < ACCEPT_SECONDS, f"{time.monotonic() - begun:.3f} s")
    with (
        report.rule("/ping answers within 2 s while 16 requests are in the container", INFERENCE),
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        work = [pool.submit(target.invoke, url) for _ in range(64)]
        pings = []
        while not all(item.done() for item in work):
            pings.append(ask(url, "GET", "/ping"))
            time.sleep(0.05)
        pings.append(ask(url, "GET", "/ping"))
        slowest, wrong = max(p.seconds for p in pings), [p.status for p in pings if p.status != 200]
        require(slowest < PING_SECONDS and not wrong, f"slowest of {len(pings)}: {slowest:.2f} s; not 200: {wrong[:5]}")
    with report.rule("a bad request is a 4xx: 5xx sets off the alarms on Invocation5XXErrors", WATCH):
        answers = {name: target.invoke(url, body) for name, body in (("empty", b""), ("noise", bytes(range(256)) * 8))}
        answers["unknown type"] = target.invoke(url, Content_Type="application/x-unknown-to-all")
        server_side = {name: answer.status for name, answer in answers.items() if answer.status >= 500}
        require(not server_side, f"answered with {server_side}")
    with report.rule("an error's message is whole within 2048 characters (ModelError's OriginalMessage)", INVOKE):
        error = target.invoke(url, bytes(range(256)) * 8)
        require(error.status >= 400, f"noise was answered with {error.status}")
        require(len(error.body) <= 2048, f"{len(error.body)} bytes")
        require(b"Traceback" not in error.body, "a traceback is shown to the caller")
    with report.rule("headers that SageMaker adds are ignored", INFERENCE):
        odd = target.invoke(url, X_Amzn_SageMaker_Custom_Attributes="a=b;c", X_Amzn_Something_New="1", Accept="*/*")
        require(200 <= odd.status < 300, f"{odd.status}: {odd.body[:200]!r}")
    with report.rule("a body of 25 MB, the platform's limit, is not too large", INFERENCE):
        big = target.invoke(url, b"\x00" * (25 * 1024 * 1024))
        require(big.status != 413, f"{big.status}: {big.body[:200]!r}")
    with report.rule("it still answers after all that", INFERENCE):
        times = [target.invoke(url) for _ in range(5)]
        require(all(a.status == 200 for a in times), f"{[a.status for a in times]}")
        require(statistics.median(a.seconds for a in times) < INVOKE_SECONDS, "slower than 60 s")


def _optional_routes(target: Serving, url: str, report: Report) -> None:
    with report.rule("GET /execution-parameters answers batch transform, or 404", BATCH):
        answer = ask(url, "GET", "/execution-parameters")
        require(answer.status in (200, 404), f"{answer.status}")
        if answer.status == 200:
            found = json.loads(answer.body)
            require({"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"} <= set(found), f"{found}")
    with report.rule("GET /metrics has Prometheus text: new endpoints are scraped by default", API + "API_MetricsConfig.html"):
        answer = ask(url, "GET", "/metrics")
        require(answer.status == 200, f"{answer.status}: every scrape will be refused and no metric of the container is shown")
        require(b"# TYPE" in answer.body, f"no Prometheus text: {answer.body[:80]!r}")


def _stop(target: Serving, box: Container, url: str, report: Report) -> None:
    """Half of each request is sent before SIGTERM and half after it: accepted for certain, and not yet answerable."""
    rule = f"SIGTERM ends it before SIGKILL ({target.stop_seconds} s), and accepted requests are answered"
    with report.rule(rule, INFERENCE), concurrent.futures.ThreadPoolExecutor(1) as pool:
        half = len(target.payload) // 2
        connections = [half_sent(url, target, half) for _ in range(4)]
        time.sleep(1)
        stopping = pool.submit(box.stop, timeout=target.stop_seconds)
        time.sleep(0.5)
        lost = []
        for connection in connections:
            try:
                connection.send(target.payload[half:])
                status = connection.getresponse().status
                lost += [f"{status}"] if status != 200 else []
            except (OSError, http.client.HTTPException) as error:
                lost.append(type(error).__name__)
            finally:
                connection.close()
        stopping.result()
        box.reload()
        require(box.attrs["State"]["ExitCode"] != 137, "ignored SIGTERM and was killed")
        require(not lost, f"{len(lost)} of 4 requests that had been accepted were not answered: {lost}")


def half_sent(url: str, target: Serving, sent: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=INVOKE_SECONDS)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Type", target.content_type)
    connection.putheader("Content-Length", str(len(target.payload)))
    connection.endheaders(target.payload[:sent])
    return connection


def _starts(target: Serving, report: Report) -> None:
    with (
        report.rule("works without any way out to the network (EnableNetworkIsolation)", ISOLATION),
        engine.network(target.client) as bridge,
        target.started(network=bridge.name) as (box, url),
    ):
        target.wait(box, url)
        status = target.invoke(url).status
        require(status == 200, f"/invocations answers {status}")
    with report.rule("/ping is not 200 while there is no model: the check should mean something", INFERENCE):
        empty = Path(tempfile.mkdtemp(prefix="conformance-no-model-"))
        try:
            with target.started(model=empty) as (box, url):
                require(not _ever_ready(box, url, 20), "/ping answers 200 with an empty /opt/ml/model")
        finally:
            shutil.rmtree(empty)


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


def _labels(target: Serving, report: Report) -> None:
    """What the image claims by its labels."""
    labels = target.client.images.get(target.image).labels
    claims = "com.amazonaws.sagemaker.capabilities."
    with report.rule("SAGEMAKER_BIND_TO_PORT is obeyed where the image's label says so", BUILD_MULTI):
        if labels.get(claims + "accept-bind-to-port") != "true":
            raise NotTried("the image has no label accept-bind-to-port=true")
        environment = {"SAGEMAKER_BIND_TO_PORT": "9123", "SAGEMAKER_SAFE_PORT_RANGE": "23000-23999"}
        with target.started(port=9123, environment=environment) as (box, url):
            target.wait(box, url)
    with report.rule("a multi-model container starts with no model and serves the models API", MULTI_MODEL):
        if labels.get(claims + "multi-models") != "true":
            raise NotTried("the image has no label multi-models=true")
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
