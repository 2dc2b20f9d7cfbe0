"""What the committed defaults reach, untouched: real photos, ImageNet weights of EfficientNet-Lite0, both phases, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import make_stamps
from scripts.machine import ROOT, Stop
from scripts.runners import PRETRAINED, Processes
from tests.support.requirement import unavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

STAMPS = Path(os.environ.get("KENNEL_STAMPS", "/usr/share/tuxpaint/stamps"))
"""Of the Debian package tuxpaint-stamps-default (161 MB, GPL-2)."""


@pytest.fixture(scope="module")
def imagenet() -> Path:
    processes = Processes()
    processes._python = Path(sys.executable)
    try:
        processes._pretrained_weights()
    except Stop as problem:
        unavailable(str(problem))
    return PRETRAINED


def trained(data: Path, folder: Path, imagenet: Path) -> dict[str, float]:
    """The metrics of a model trained on `data` with every default."""
    flags = ["--data", data, "--model-dir", folder / "model", "--architecture", "efficientnet_lite0", "--job-name", folder.name]
    environment = os.environ | {"KENNEL_PRETRAINED_DIR": str(imagenet), "KENNEL_DEVICE": "cpu", "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "containers.train", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found: dict[str, float] = json.loads((folder / "model" / "manifest.json").read_text())["metrics"]
    return found


def test_the_textures_are_told_apart(tmp_path: Path, imagenet: Path) -> None:
    assert trained(ROOT / "examples" / "photos", tmp_path, imagenet)["test_accuracy"] >= 0.95


def test_the_stamps_are_told_apart(tmp_path: Path, imagenet: Path) -> None:
    if not STAMPS.is_dir():
        pytest.skip("the stamps are not there: install tuxpaint-stamps-default, or name its folder with KENNEL_STAMPS")
    make_stamps.main(STAMPS, tmp_path / "photos")
    assert trained(tmp_path / "photos", tmp_path, imagenet)["test_accuracy"] >= 0.85
