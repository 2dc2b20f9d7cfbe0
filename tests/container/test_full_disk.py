"""No space left, in a container whose disks are small: what is lost, and what is said.

Invariants: a disk that is too small from the start is named before training starts; a checkpoint that does not fit costs
the checkpoint, not the training; a model that does not fit costs the model until there is room, not what was learned, and not
an orderly stop; what was committed before stays whole.
"""

import contextlib

import pytest

from containers.core import manifest
from tests.support import engine as docker_engine
from tests.support.hosts import ENDLESS, QUICK, START_SECONDS, events

ROOMY = "200m"
"""Three times what training asks for, and full in a moment, while a job of a dozen short epochs goes on."""
_LOST = "checkpoint not written; the previous one stays the newest"

_LATEST_IS_WHOLE = """
import hashlib, json, pathlib
folder = pathlib.Path("/opt/ml/checkpoints")
latest = json.loads((folder / "latest.json").read_text())
print(hashlib.sha256((folder / latest["file"]).read_bytes()).hexdigest() == latest["sha256"])
"""


@pytest.fixture
def started(engine, train_image, few, tmp_path):
    @contextlib.contextmanager
    def run(small, size, hyperparameters=ENDLESS):
        """A job, with `size` at `small` ("": with all the room there is); (container, tree)."""
        root = docker_engine.opt_ml(tmp_path, hyperparameters, channels=list(few))
        environment = {"TRAINING_JOB_NAME": "full-disk", "OMP_NUM_THREADS": "1"}
        disks = {small: f"size={size}"} if small else {}
        options = {"volumes": docker_engine.mounts(root, few), "tmpfs": disks, "environment": environment}
        with docker_engine.container(engine, train_image, "train", network_mode="none", **options) as box:
            yield box, root

    return run


def test_a_disk_that_is_too_small_is_named_before_training(started):
    with started("/opt/ml/model", "1m") as (box, root):
        assert docker_engine.exit_code(box, START_SECONDS) == 2
        assert events(box, "starting workers") == []
        reason = (root / "output" / "failure").read_text().splitlines()[0]
        assert reason == "ConfigError: /opt/ml/model has 1 MB free and training needs 64: make room, or choose another folder"


def test_a_disk_that_fills_up_costs_checkpoints_not_training(started):
    with started("/opt/ml/checkpoints", ROOMY) as (box, _):
        docker_engine.wait_until(lambda: events(box, "epoch"), START_SECONDS, "the first epoch")
        box.exec_run(["sh", "-c", "cat /dev/zero > /opt/ml/checkpoints/somebody-elses"])
        docker_engine.wait_for_log(box, _LOST, START_SECONDS)
        assert "No space left" in events(box, _LOST)[0]["reason"]
        here = len(events(box, "epoch"))
        docker_engine.wait_until(lambda: len(events(box, "epoch")) > here, START_SECONDS, "training going on")
        code, output = box.exec_run(["python3", "-c", _LATEST_IS_WHOLE])
        assert (code, output) == (0, b"True\n")
        box.exec_run(["rm", "/opt/ml/checkpoints/somebody-elses"])
        box.kill("SIGTERM")
        assert docker_engine.exit_code(box, 120) == 0  # there is room again: the last checkpoint is committed


def fill_model_disk(box):
    docker_engine.wait_until(lambda: events(box, "epoch"), START_SECONDS, "the first epoch")
    box.exec_run(["sh", "-c", "cat /dev/zero > /opt/ml/model/somebody-elses"])


LONG_ENOUGH = QUICK | {"epochs": 12}
"""To fill a disk before the end."""


def test_a_model_that_does_not_fit_is_said_and_written_by_the_next_start_with_room(started):
    with started("/opt/ml/model", ROOMY, LONG_ENOUGH) as (box, root):
        fill_model_disk(box)
        assert docker_engine.exit_code(box, START_SECONDS) == 1
        epochs = len(events(box, "epoch"))
        reason = (root / "output" / "failure").read_text().splitlines()[0]
        assert reason.startswith("TrainingError: the model cannot be written to /opt/ml/model (weights.safetensors: ")
        assert "No space left" in reason
        assert "make room and start the job again" in reason
    with started("", "", LONG_ENOUGH) as (box, root):
        assert docker_engine.exit_code(box, START_SECONDS) == 0
        assert epochs == LONG_ENOUGH["epochs"]
        assert events(box, "epoch") == []
        manifest.verify(root / "model", manifest.read(root / "model"))
        assert not (root / "output" / "failure").exists()


def test_a_stop_is_orderly_though_the_model_does_not_fit(started):
    with started("/opt/ml/model", ROOMY) as (box, root):
        fill_model_disk(box)
        box.kill("SIGTERM")
        assert docker_engine.exit_code(box, 120) == 0
        assert "No space left" in events(box, "model not written")[0]["reason"]
        assert not (root / "output" / "failure").exists()
        assert (root / "checkpoints" / "latest.json").exists()
