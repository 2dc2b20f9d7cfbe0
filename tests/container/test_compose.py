"""docker-compose.yml, called as the README says."""

import json
import shutil
from pathlib import Path

import pytest
import requests

from containers.core import manifest
from tests.support.compose import Project, project
from tests.support.hosts import QUICK
from tests.support.server import free_port


@pytest.fixture
def compose(tmp_path):
    with project(tmp_path) as made:
        yield made


@pytest.fixture
def port():
    return str(free_port())


def readable(folder: Path) -> Path:
    """The server is another user than the test."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_a_model_directory_named_from_where_one_stands_is_served(compose: Project, model_dir, serve_image, port):
    """MODEL_DIR=runs/mine docker compose up."""
    readable(shutil.copytree(model_dir, compose.folder / "runs" / "mine"))
    names = {"MODEL_DIR": "runs/mine", "PORT": port, "KENNEL_SERVE_IMAGE": serve_image}
    up = compose("up", "--no-build", "--wait", "serve", **names)
    assert up.returncode == 0, up.stderr[-2000:] + compose("logs", "serve", **names).stdout[-2000:]
    facts = manifest.read(model_dir)
    golden = (model_dir / manifest.GOLDEN_FILE).read_bytes()
    headers = {"Content-Type": "image/png"}
    answer = requests.post(f"http://127.0.0.1:{port}/invocations", golden, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    served = answer.json()["predictions"][0]["probabilities"]
    assert list(served) == list(facts.class_names)
    assert list(served.values()) == pytest.approx(facts.golden.probabilities, abs=facts.golden.tolerance)


def test_no_model_yet_is_one_clear_line(compose: Project, serve_image, port):
    names = {"PORT": port, "KENNEL_SERVE_IMAGE": serve_image}
    up = compose("up", "--no-build", "--no-log-prefix", "--no-color", "--exit-code-from", "serve", "serve", **names)
    assert up.returncode == 3
    (reason,) = [line for line in (up.stdout + up.stderr).splitlines() if line.startswith("kennel serve: ")]
    assert reason.startswith("kennel serve: ArtifactError: no model in /opt/ml/model yet: train one first (make demo)")


def test_a_model_directory_that_is_not_there_is_named_and_not_made(compose: Project, serve_image, port):
    up = compose("up", "--no-build", "serve", MODEL_DIR="runs/mien", PORT=port, KENNEL_SERVE_IMAGE=serve_image)
    assert up.returncode != 0
    assert f"{compose.folder}/runs/mien" in up.stderr
    assert "does not exist" in up.stderr
    assert not (compose.folder / "runs" / "mien").exists()


def test_two_hosts_train_on_photos_named_from_where_one_stands(compose: Project, few, train_image):
    """DATA=path/to/photos docker compose --profile train up algo-1 algo-2."""
    shutil.copytree(few["train"].parent, compose.folder / "path" / "to" / "photos")
    quick = {name: str(value) for name, value in QUICK.items()}
    (compose.folder / "examples" / "sagemaker" / "hyperparameters.json").write_text(json.dumps(quick))
    done = compose(
        "--profile", "train", "up", "--no-build", "--abort-on-container-failure", "algo-1", "algo-2",
        DATA="path/to/photos", KENNEL_TRAIN_IMAGE=train_image, KENNEL_DEVICE="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    written, empty = (compose.folder / "runs" / "two-hosts" / name / "model" for name in ("algo-1", "algo-2"))
    manifest.verify(written, manifest.read(written))
    assert not any(empty.iterdir())
    states = compose("--profile", "train", "ps", "--all", "--format", "{{.Service}} {{.ExitCode}}").stdout
    assert sorted(states.split("\n"))[-2:] == ["algo-1 0", "algo-2 0"]


def test_the_overlay_asks_for_all_gpus_for_whatever_computes(compose: Project):
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml")
    config = compose(*files, "--profile", "*", "config", "--format", "json")
    assert config.returncode == 0, config.stderr
    services = json.loads(config.stdout)["services"]
    asked = {name: each["deploy"]["resources"]["reservations"]["devices"] for name, each in services.items()}
    every = [{"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}]  # -1 is how Compose writes all
    assert asked == dict.fromkeys(("serve", "train", "algo-1", "algo-2"), every)
