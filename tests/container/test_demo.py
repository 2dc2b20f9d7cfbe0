"""make demo in a fresh clone, as a newcomer runs it: in containers, and as processes where there is no engine.

Nothing is installed or built again: the images are those of these tests, and the clone's environment is a link to this one.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import requests

from containers.core import manifest
from scripts.environment import STAMPS
from scripts.machine import ROOT
from scripts.runners import project_of
from tests.support.requirement import unavailable
from tests.support.server import free_port

PHOTOS = ROOT / "examples" / "photos"
CLASSES = ("brick", "grass", "gravel")


class Clone:
    """A clone of this repository's last commit, the port its demo serves on, and what its commands see of the environment."""

    def __init__(self, folder: Path) -> None:
        if not (ROOT / ".git").exists():
            unavailable("this tree is no git checkout, so there is nothing to clone")
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        self.folder, self.project = folder, project_of(folder.resolve())
        self.port = free_port()
        ours = ("KENNEL_", "SERVE_", "SAGEMAKER_", "MAKE", "MODEL_DIR", "DATA", "PORT", "BASE_IMAGE", "MFLAGS")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environ["CUDA_VISIBLE_DEVICES"] = ""

    def make(self, *arguments: str) -> str:
        """What `make ARGUMENTS` prints. It ends well."""
        command = ["make", "--no-print-directory", *arguments, f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, photo: Path) -> dict:
        response = requests.post(
            f"{self.url}/invocations", photo.read_bytes(), headers={"Content-Type": "application/x-image"}, timeout=60
        )
        assert response.status_code == 200, response.text
        return response.json()["predictions"][0]


@pytest.fixture
def clone(tmp_path):
    made = Clone(tmp_path / "kennel")
    yield made
    made.make("stop")


class Machine(NamedTuple):
    """What the demo says that it found, and what is left of it here."""

    said: str
    left: Callable[[], list[object]]


@pytest.fixture
def with_an_engine(engine, train_image, serve_image, clone):
    clone.environ |= {"KENNEL_TRAIN_IMAGE": train_image, "KENNEL_SERVE_IMAGE": serve_image}

    def left():
        mine = {"label": f"com.docker.compose.project={clone.project}"}
        return engine.containers.list(all=True, filters=mine) + engine.networks.list(filters=mine)

    return Machine("A Docker engine answers: everything runs in containers, nothing is installed on this machine", left)


@pytest.fixture
def without_an_engine(clone):
    clone.environ["DOCKER_HOST"] = "tcp://127.0.0.1:9"
    environment = Path(sys.prefix)
    lock = hashlib.sha256((clone.folder / "requirements" / "all.lock").read_bytes()).hexdigest()
    if not (environment / STAMPS / "all").is_file() or (environment / STAMPS / "all").read_text() != lock:
        unavailable(f"{environment} does not hold what the last commit pins: make setup")
    (clone.folder / ".venv").symlink_to(environment)
    weights = ROOT / ".cache" / "pretrained"
    weights.mkdir(parents=True, exist_ok=True)
    (clone.folder / ".cache").mkdir()
    (clone.folder / ".cache" / "pretrained").symlink_to(weights)
    said = "No containers, as no Docker engine answers: the same programs run as processes of this machine"
    return Machine(said, lambda: [process for process in psutil.process_iter() if _folder(process) == str(clone.folder)])


def _folder(process):
    try:
        return process.cwd()
    except psutil.Error:
        return None


def photos(folder: Path, classes: tuple[str, ...], each: int | None = None) -> Path:
    """A folder of photos for each class, without splits."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for photo in sorted(PHOTOS.glob(f"*/{name}/*.jpg"))[:each]:
            shutil.copy(photo, folder / name)
    return folder


def shown(output: str) -> list[str]:
    """The class names in the demo's answer."""
    return re.findall(r"^    (\S+) +[01]\.\d{4}", output, re.M)


def check_a_first_run(clone: Clone, machine: Machine, data: Path) -> None:
    first = clone.make("demo", f"DATA={data}", f"PORT={clone.port}")
    assert machine.said in first
    for split in ("valid", "test"):
        assert f"{split}: not given, so made of 15% of each class's training photos" in first
    assert f"Serving at {clone.url} " in first
    accuracy = re.search(r"^Accuracy on all test photos: ([0-9.]+)$", first, re.M)
    assert accuracy
    assert float(accuracy[1]) >= 0.95
    assert sorted(shown(first)) == sorted(CLASSES)

    model = clone.folder / "runs" / "demo" / "model"
    facts = manifest.read(model)
    golden = clone.answer(model / manifest.GOLDEN_FILE)["probabilities"]
    assert list(golden) == list(CLASSES)
    assert list(golden.values()) == pytest.approx(facts.golden.probabilities, abs=manifest.EAGER_TOLERANCE)
    assert [clone.answer(min(PHOTOS.glob(f"test/{name}/*.jpg")))["class"] for name in CLASSES] == list(CLASSES)


def check_the_end(clone: Clone, machine: Machine) -> None:
    other = Clone(clone.folder.with_name("other"))
    other.environ = clone.environ
    assert other.make("stop") == "No server of the demo was running.\n", "it is another clone's"
    assert requests.get(f"{clone.url}/ping", timeout=5).status_code == 200
    assert clone.make("stop") == "The demo's server has ended.\n"
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{clone.url}/ping", timeout=5)
    assert clone.make("stop") == "No server of the demo was running.\n"
    assert machine.left() == []


@pytest.mark.timeout(1500)
def test_with_an_engine_a_newcomer_gets_a_served_model_another_one_and_an_end(clone, with_an_engine, tmp_path):
    check_a_first_run(clone, with_an_engine, photos(tmp_path / "photos", CLASSES))
    second = clone.make("demo", f"DATA={photos(tmp_path / 'others', CLASSES[1:], each=12)}", f"PORT={clone.port}")
    assert sorted(shown(second)) == sorted(CLASSES[1:])
    golden = clone.folder / "runs" / "demo" / "model" / manifest.GOLDEN_FILE
    assert list(clone.answer(golden)["probabilities"]) == list(CLASSES[1:])
    assert not re.search(r"Installing|Fetching|pulling|Building", second)
    check_the_end(clone, with_an_engine)


@pytest.mark.timeout(1500)
def test_without_one_a_newcomer_gets_a_served_model_and_an_end(clone, without_an_engine, tmp_path):
    check_a_first_run(clone, without_an_engine, photos(tmp_path / "photos", CLASSES))
    check_the_end(clone, without_an_engine)
