"""A stand-in for the Docker engine that speaks its HTTP interface on a socket: it notes what it is asked, and has no images."""

import base64
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from urllib.parse import parse_qs, unquote, urlsplit

from deploy import images
from deploy.image_trial import FRONT_DOORS

DIGEST = f"sha256:{'a' * 64}"
CUDA = "12.8"
REGISTRY = {"Descriptor": {"mediaType": images.PLAIN, "digest": DIGEST, "size": 1}, "Platforms": []}
IMAGE = {"Id": DIGEST, "Architecture": "amd64", "Config": {"Labels": {"org.kennel.cuda": CUDA}}}


class Engine:
    """Every image is here, unless not `built`, and in its registry, unless `missing` there; each starts as it should.

    `asked`: (look, pull or push; the image; the login) of everything it was to ask of a registry.
    """

    def __init__(self, socket: Path) -> None:
        self.asked, self.missing, self.refuses, self.built = [], set(), "", True
        self._containers: list[list[str]] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(*engine._get(self._path(), self._login()))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                query = parse_qs(urlsplit(self.path).query)
                self._answer(*engine._post(self._path(), self._login(), query, json.loads(body or b"{}")))

            def do_DELETE(self) -> None:
                self._answer(204, None)

            def _path(self) -> str:
                """Without the interface's version."""
                return unquote(urlsplit(self.path).path).removeprefix("/v1.43")

            def _login(self) -> dict | None:
                login = self.headers["X-Registry-Auth"]
                return json.loads(base64.urlsafe_b64decode(login)) if login else None

            def _answer(self, status: int, body: object) -> None:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content) if status != 204 else 0))
                self.end_headers()
                if status != 204:
                    self.wfile.write(content)

        self.server = ThreadingUnixStreamServer(str(socket), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _get(self, path: str, login: dict | None) -> tuple[int, object]:
        if path.startswith("/distribution/"):
            name = path.removeprefix("/distribution/").removesuffix("/json")
            self.asked.append(("look", name, login))
            if self.refuses:
                return 500, {"message": self.refuses}
            return (404, {"message": "manifest unknown"}) if name in self.missing else (200, REGISTRY)
        if path.startswith("/images/"):
            return (200, IMAGE) if self.built else (404, {"message": "No such image"})
        if path.startswith("/containers/"):
            return self._container(path)
        return 200, {"/version": {"ApiVersion": "1.43"}}.get(path, {})

    def _post(self, path: str, login: dict | None, query: dict, body: dict) -> tuple[int, object]:
        if path.endswith("/push"):
            name = path.removeprefix("/images/").removesuffix("/push")
            self.asked.append(("push", name, login))
            self.missing.discard(f"{name}:{query['tag'][0]}")
            return 200, {"aux": {"Tag": "v1", "Digest": DIGEST, "Size": 1}}
        if path == "/images/create":
            self.asked.append(("pull", query["fromImage"][0], login))
            self.built = True
            return 200, {"status": "Downloaded"}
        if path == "/containers/create":
            self._containers.append(body["Cmd"])
            return 201, {"Id": str(len(self._containers) - 1)}
        return 204, None

    def _container(self, path: str) -> tuple[int, object]:
        """One that has ended, as each of the trial's two should."""
        _, _, number, what = path.split("/")
        code, log = FRONT_DOORS.get(self._containers[int(number)][0], (0, CUDA))
        if what == "logs":
            return 200, log.encode()
        ended = {"Status": "exited", "ExitCode": code}
        return 200, {"Id": number, "State": ended, "Config": {"Tty": True}, "Image": DIGEST}


@contextmanager
def engine(monkeypatch) -> Iterator[Engine]:
    """The engine that DOCKER_HOST names meanwhile."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path has 107 characters at most
        made = Engine(Path(folder) / "docker.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/docker.sock")
        for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
            monkeypatch.delenv(name, raising=False)
        yield made
        made.server.shutdown()
        made.server.server_close()
