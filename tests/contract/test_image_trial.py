"""`images` runs each front door with nothing mounted, and takes the end that the containers give it by design for a start."""

import os
import subprocess
import sys

import pytest

from deploy import image_trial
from scripts.machine import ROOT

EMPTY_JOB = "import sys; from pathlib import Path; from containers.train import sagemaker; root = Path(sys.argv.pop())"
COMMANDS = {
    "train": ["-c", f"{EMPTY_JOB}; raise SystemExit(sagemaker.main(root))"],
    "serve": ["-m", "containers.serve", "--host", "127.0.0.1", "--port", "0", "--model-dir"],
}


@pytest.mark.parametrize("image", COMMANDS)
def test_the_front_door_ends_as_the_trial_expects(image, tmp_path):
    command = [sys.executable, *COMMANDS[image], str(tmp_path)]
    environment = os.environ | {"KENNEL_DEVICE": "cpu", "SERVE_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    code, reason = image_trial.FRONT_DOORS[image]
    assert done.returncode == code, done.stdout + done.stderr
    assert reason.replace("/opt/ml/model", str(tmp_path)) in done.stdout + done.stderr


def test_every_image_has_its_front_door():
    from deploy.images import IMAGES

    assert set(image_trial.FRONT_DOORS) == set(IMAGES)
