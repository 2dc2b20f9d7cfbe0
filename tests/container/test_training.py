"""The training image as a container in hostile surroundings, and two hosts as docker-compose.yml starts them."""

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from containers.core import manifest
from scripts.machine import ROOT, NoDocker, find_docker
from tests.support import engine as docker_engine
from tests.support.hosts import QUICK, START_SECONDS, events
from tests.support.requirement import unavailable

_SMALL_SHM = "shared memory is small: batches go through pipes, a little slower (docker: --shm-size)"


def test_it_trains_locked_down(engine, train_image, few, tmp_path):
    """Another user, a root nobody can write to, no network, no privileges, and 64 MB of /dev/shm for 115 MB of batches."""
    hungry = QUICK | {"epochs": 1, "num_workers": 2, "batch_size": 128, "image_size": 224}
    root = docker_engine.opt_ml(tmp_path, hungry, channels=list(few))
    for path in [root, *root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)
    options = {
        "user": "10001:10001",
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "none",
        "volumes": docker_engine.mounts(root, few),
        "environment": {"TRAINING_JOB_NAME": "locked-down", "OMP_NUM_THREADS": "1"},
    }
    with docker_engine.container(engine, train_image, "train", **options) as box:
        assert docker_engine.exit_code(box, START_SECONDS) == 0, docker_engine.logs(box)
        assert len(events(box, _SMALL_SHM)) == 1
        assert "Traceback" not in docker_engine.logs(box)
    written = manifest.read(root / "model")
    manifest.verify(root / "model", written)
    readable = [path.stat().st_mode & 0o004 for path in (root / "model").rglob("*") if path.is_file()]
    assert all(readable), "the server may be another user than training"


def compose(project: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
    try:
        cli = find_docker().cli
    except NoDocker as reason:
        unavailable(str(reason))
    command = [cli, "compose", "--project-name", f"kennel-test-{project.name}", "--project-directory", project]
    environment = {**os.environ, **environ}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture
def project(tmp_path):
    """A copy of what docker-compose.yml mounts, so that nothing is written into the repository."""
    folder = tmp_path / uuid.uuid4().hex[:8]
    shutil.copytree(ROOT / "examples" / "sagemaker", folder / "examples" / "sagemaker")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    quick = {name: str(value) for name, value in QUICK.items()}
    (folder / "examples" / "sagemaker" / "hyperparameters.json").write_text(json.dumps(quick))
    yield folder
    compose(folder, "--profile", "train", "down", "--volumes")


def test_two_hosts_train_as_docker_compose_starts_them(project, few, train_image):
    data = few["train"].parent
    done = compose(
        project, "--profile", "train", "up", "--no-build", "--abort-on-container-failure", "algo-1", "algo-2",
        DATA=str(data), KENNEL_TRAIN_IMAGE=train_image, KENNEL_DEVICE="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    models = [project / "runs" / "two-hosts" / name / "model" for name in ("algo-1", "algo-2")]
    (written,) = [model for model in models if any(model.iterdir())]  # rank 0's host, which may be either
    manifest.verify(written, manifest.read(written))
    states = compose(project, "--profile", "train", "ps", "--all", "--format", "{{.Service}} {{.ExitCode}}").stdout
    assert sorted(states.split("\n"))[-2:] == ["algo-1 0", "algo-2 0"]
