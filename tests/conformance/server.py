"""A container that was started with `serve`, and requests to it."""

import contextlib
import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.models.containers import Container

from tests.conformance.report import GUIDE, NotTried
from tests.support import engine

INFERENCE = GUIDE + "your-algorithms-inference-code.html"
INVOKE_SECONDS, STOP_SECONDS = 60.0, 30


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


@dataclass
class Up:
    """What most rules ask; none of them can be tried where it did not start."""

    started: tuple[Container, str] | None = None
    answers: bool = False
    """The payload was once answered with 2xx."""

    @property
    def url(self) -> str:
        return self.found[1]

    @property
    def found(self) -> tuple[Container, str]:
        if self.started is None:
            raise NotTried("no container became ready")
        return self.started

    def need_answers(self) -> None:
        if self.found and not self.answers:
            raise NotTried("the payload itself is not answered with 2xx")
