"""A training job as its user starts it, on photos of every kind: first process, launcher, two ranks and their loaders."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from containers.core import manifest
from containers.train.checkpoint import Checkpoints
from containers.train.distributed import Group
from tests.support.training import photo, same
from tests.unit.train.jobs import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FLAGS = {
    "architecture": "mobilenet_v3_small", "pretrained": "none", "image-size": 64, "head-epochs": 1, "epochs": 4,
    "batch-size": 8, "patience": 0, "deterministic": "true", "num-workers": 2, "processes-per-host": 2, "engines": "none",
    "max-bad-fraction": 0.2,
}  # fmt: skip
SECONDS = 400.0
"""For machines under load."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, and in train one photo of every kind that is usable or not."""
    root = tmp_path_factory.mktemp("photos")
    for split, each in (("train", 10), ("valid", 5), ("test", 4)):
        for label in (0, 1):
            for number in range(each):
                photo(root / split / f"class{label}" / f"{number:02d}.jpg", label, number + 100 * each)
    odd = root / "train" / "class0"
    plain = Image.open(odd / "00.jpg")
    (odd / "truncated.jpg").write_bytes((odd / "01.jpg").read_bytes()[:400])
    (odd / "empty.jpg").touch()
    plain.save(odd / "png.jpg", "PNG")
    plain.convert("CMYK").save(odd / "cmyk.jpg")
    plain.convert("P").save(odd / "palette.png")
    plain.convert("I;16" if plain.mode == "L" else "L").convert("I;16").save(odd / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    plain.save(odd / "rotated.jpg", exif=rotated)
    return root


def job(folder: Path, data: Path, *flags: object) -> Job:
    settings = [part for name, value in FLAGS.items() for part in (f"--{name}", value)]
    return Job.with_flags(folder, data, *settings, *flags, TINY_WORKER="containers.train.worker")


def learned(folder: Path) -> dict[str, Any]:
    """The last state, not the best: an early epoch may well be the best on so few photos."""
    restored = Checkpoints(folder / "model.run/checkpoints", Group.alone()).restore()
    assert restored is not None
    return {name: restored.state[name] for name in ("model", "optimizer", "stopping")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Job:
    folder = tmp_path_factory.mktemp("undisturbed")
    with job(folder, data) as run:
        assert run.wait(SECONDS) == 0, run.out
    return run


def epochs(run: Job) -> int:
    return run.out.count('"event": "epoch"')


def wait_for_epochs(run: Job, count: int) -> None:
    run.wait_until(lambda: epochs(run) >= count, f"epoch {count}", SECONDS)


def test_photos_of_every_kind_train_and_the_unreadable_are_named(undisturbed: Job) -> None:
    report = json.loads((undisturbed.output / "data_report.json").read_text())
    assert report["photos"] == {"train": 25, "valid": 10, "test": 8}
    assert sorted(Path(line.partition(":")[0]).name for line in report["skipped"]) == ["empty.jpg", "truncated.jpg"]
    assert {"truncated.jpg", "empty.jpg"} <= set(undisturbed.out.replace('"', "/").replace(":", "/").split("/"))


def test_sigterm_to_the_first_process_is_a_success_that_resumes_bitwise(tmp_path: Path, data: Path, undisturbed: Job) -> None:
    with job(tmp_path, data) as run:
        wait_for_epochs(run, 2)
        assert run.stop().wait(SECONDS) == 0, run.out  # not 75: every rank committed before it would have been killed
    assert run.failure is None
    stops = {json.loads(line)["reason"] for line in run.out.splitlines() if '"event": "interrupted"' in line}
    assert len(stops) == 1, "both ranks left at the same step"
    assert "killed by signal" not in run.out
    restored = Checkpoints(tmp_path / "model.run/checkpoints", Group.alone()).restore()
    assert restored is not None
    assert f"step {restored.state['progress']['step']} " in stops.pop()
    assert manifest.read(tmp_path / "model").files, "a usable model was left"
    with job(tmp_path, data) as again:
        assert again.wait(SECONDS) == 0, again.out
    assert same(learned(tmp_path), learned(undisturbed.folder))


def test_a_rank_that_is_killed_is_replaced_and_the_result_is_bitwise_the_same(
    tmp_path: Path, data: Path, undisturbed: Job
) -> None:
    with job(tmp_path, data, "--max-restarts", 1) as run:
        wait_for_epochs(run, 2)
        launcher = next(p for p in psutil.Process(run.process.pid).children() if "containers.train.launch" in p.cmdline())
        ranks = [p for p in launcher.children() if "containers.train.worker" in p.cmdline()]
        assert len(ranks) == 2
        os.kill(ranks[1].pid, signal.SIGKILL)
        assert run.wait(SECONDS) == 0, run.out
    assert "the group restarts from its last checkpoint" in run.out
    assert same(learned(tmp_path), learned(undisturbed.folder))
