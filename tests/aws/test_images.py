"""`images` against a real engine and a real registry with a login."""

import base64
import json
import urllib.request
from pathlib import Path

import pytest

from deploy import __main__ as deploy
from deploy import images
from deploy.config import load
from deploy.context import Context
from deploy.errors import DeployError
from tests.support.registry import path_with_buildkit, registry
from tests.support.requirement import docker_client

pytestmark = pytest.mark.docker
DOCKERFILE = 'FROM scratch AS train\nARG VERSION\nCOPY file /file\nLABEL org.kennel.cuda="12.8" version="${VERSION}"\n'


@pytest.fixture
def context() -> Context:
    return Context(load("dev", {"stage": {"region": "eu-west-1"}}, where="test"))


class Screened:
    """What of a Context is asked to say something."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.say = self.lines.append


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "file").write_bytes(tmp_path.name.encode())
    return tmp_path


def log_in(monkeypatch: pytest.MonkeyPatch, folder: Path, host: str, password: str) -> None:
    """As `docker login` leaves it."""
    auth = base64.b64encode(f"AWS:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_build_push_digest_label_and_errors(context, source, tmp_path, monkeypatch, capfd):
    docker_client()
    monkeypatch.setenv("PATH", path_with_buildkit())
    with registry(tmp_path, user="AWS", password="right") as host:
        target, login = f"{host}/kennel/dev/train", None
        images.build("train", f"{target}:v1", "v1", [], root=source)
        log_in(monkeypatch, tmp_path, host, "right")  # after the build: the CLI finds its plugins beside its configuration
        engine = images.connect()
        try:
            assert images.remote_digest(engine, f"{target}:v1", login) is None
            digest = images.push(engine, target, "v1", login, context)
            assert digest == images.remote_digest(engine, f"{target}:v1", login) == served_digest(host, "right")
            assert images.label(engine, f"{target}:v1", f"{target}@{digest}", login) == "12.8"
            images.look_at_type(said := Screened(), engine, f"{target}@{digest}", login)
            assert said.lines == [], "SageMaker would not take it"

            arguments = ["images", "train", "--no-build", "--tag", "v1", "--registry", host, "--json"]
            capfd.readouterr()
            assert deploy.main(arguments) == 0
            (row,) = json.loads(capfd.readouterr().out)
            assert row["reference"] == f"{target}@{digest}"
            assert (row["pushed"], row["cuda"]) == (False, "12.8")
            assert deploy.main([*arguments, "--build-arg", "COMPILE=1"]) == 0
            assert "train:v1 is in the registry already: nothing is built of --build-arg" in " ".join(
                capfd.readouterr().err.split()
            )

            with pytest.raises(DeployError, match="does not exist") as caught:
                images.push(engine, target, "absent", login, context)
            assert "--no-build" in caught.value.hint
            wrong = {"username": "AWS", "password": "wrong"}
            with pytest.raises(DeployError, match=r"unauthorized|authentication") as caught:
                images.push(engine, target, "v1", wrong, context)
            assert "docker login" in caught.value.hint
            with pytest.raises(DeployError, match="docker build"):
                images.build("nope", f"{target}:v2", "v2", [], root=source)
        finally:
            engine.images.remove(f"{target}:v1", force=True)


def served_digest(host: str, password: str) -> str:
    """What the registry itself says, without Docker."""
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    auth = base64.b64encode(f"AWS:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{host}/v2/kennel/dev/train/manifests/v1", headers={"Accept": kind, "Authorization": f"Basic {auth}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.headers["Docker-Content-Digest"]
