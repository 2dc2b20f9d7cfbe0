"""The password that ECR gives for twelve hours: what the engine is told of it, and that nobody else is.

The engine is a stand-in that speaks its HTTP interface on a socket; a real one, with a real registry, is in test_images.
"""

import base64
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from urllib.parse import unquote

import pytest

from deploy import __main__ as program
from deploy import images
from tests.support import moto_ext
from tests.support.aws import FakeClock, SharedSession, context

PASSWORD = "123456789012-auth-token"  # moto's
DIGEST = f"sha256:{'a' * 64}"
TARGET = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev/train"
REGISTRY = {"Descriptor": {"mediaType": images.PLAIN, "digest": DIGEST, "size": 1}, "Platforms": []}
IMAGE = {"Id": DIGEST, "Config": {"Labels": {"org.kennel.cuda": "12.8"}}}


class Engine:
    """Has every image and finds each in its registry. `logins`: who asked for what with which login."""

    def __init__(self, socket: Path) -> None:
        self.logins, self.refuses = [], ""
        self.answers = {"/version": {"ApiVersion": "1.43"}, "/_ping": {}, "/distribution/": REGISTRY, "/images/": IMAGE}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(next(body for part, body in engine.answers.items() if part in self.path))

            def do_POST(self) -> None:
                self._answer({"aux": {"Tag": "v1", "Digest": DIGEST, "Size": 1}})

            def _answer(self, body: dict) -> None:
                login = self.headers["X-Registry-Auth"]
                asked = self.command, unquote(self.path).partition("?")[0].split("/", 2)[-1]
                if "/distribution/" in self.path or self.command == "POST":
                    engine.logins.append((*asked, login and json.loads(base64.urlsafe_b64decode(login))))
                refused = engine.refuses and "/distribution/" in self.path
                text = json.dumps({"message": engine.refuses} if refused else body).encode()
                self.send_response(500 if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingUnixStreamServer(str(socket), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def engine(monkeypatch):
    folder = tempfile.TemporaryDirectory()  # a socket's path has 107 characters at most
    made = Engine(Path(folder.name) / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder.name}/docker.sock")
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.server.shutdown()
    made.server.server_close()
    folder.cleanup()


@pytest.fixture
def command(aws, tmp_path, capsys):
    """`images train --no-build --tag v1`: exit code, stdout, stderr."""
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\n')

    def run(*more):
        words = ["images", "train", "--no-build", "--tag", "v1", "--environments", str(tmp_path), "--json", "--debug", *more]
        code = program.main(words, session=SharedSession(), clock=FakeClock())
        return code, *capsys.readouterr()

    return run


def test_the_engine_gets_ecrs_login_for_each_question_and_nobody_sees_it(command, engine):
    code, out, err = command()
    assert code == 0, err
    assert json.loads(out)[0]["reference"] == f"{TARGET}@{DIGEST}"
    login = {"username": "AWS", "password": PASSWORD}
    assert engine.logins == [
        ("GET", f"distribution/{TARGET}:v1/json", login),
        ("GET", f"distribution/{TARGET}@{DIGEST}/json", login),
    ]
    assert PASSWORD not in out + err


def test_a_push_is_made_with_it(aws, engine):
    ctx = context()
    assert images.push(images.connect(), TARGET, "v1", images.ecr_login(ctx), ctx) == DIGEST
    assert engine.logins == [("POST", f"images/{TARGET}/push", {"username": "AWS", "password": PASSWORD})]
    assert PASSWORD not in ctx.out.text + ctx.console.text


def test_a_registry_that_refuses_it_is_told_without_it(command, engine):
    engine.refuses = "denied: not authorized to perform ecr:BatchGetImage"
    code, out, err = command()
    assert code == 1
    assert "check AWS_PROFILE and the deployer's policy" in json.loads(out)["hint"]
    assert PASSWORD not in out + err


def test_another_registry_is_not_told_of_it(command, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert command("--registry", "localhost:5000")[0] == 0
    assert [login for *_, login in engine.logins] == [None, None]


def test_who_may_not_log_in_is_told_what_aws_said(command, engine):
    moto_ext.YOUNG["GetAuthorizationToken"] = [
        ("AccessDeniedException", "not authorized to perform: ecr:GetAuthorizationToken")
    ]
    code, out, _ = command()
    told = json.loads(out)
    assert (code, told["where"], told["aws_code"]) == (1, "ECR login", "AccessDeniedException")
    assert engine.logins == []
