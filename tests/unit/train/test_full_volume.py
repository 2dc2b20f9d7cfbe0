"""One small volume for everything a job writes, as on a laptop or a small instance, that somebody else fills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import full_disk
from tests.unit.train import jobs
from tests.unit.train.jobs import Job

LOST = "checkpoint not written; the previous one stays the newest"
FLAGS = (
    "--pretrained", "none", "--image-size", "32", "--head-epochs", "0", "--batch-size", "4", "--num-workers", "0",
    "--engines", "none", "--patience", "0", "--device", "cpu",
)  # fmt: skip
SMALL = ("--architecture", "mobilenet_v3_small")
REAL = {"TINY_WORKER": "containers.train.worker"}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    with full_disk.small_volume(tmp_path / "volume", 200) as folder:
        yield folder


def epochs(job: Job) -> int:
    return job.out.count('"event": "epoch"')


@pytest.mark.slow
def test_training_goes_on_and_a_stop_is_resumable_and_never_without_a_word(tmp_path: Path, volume: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    what = ("--data", data, "--model-dir", volume / "model", *FLAGS, *SMALL, "--epochs", 10_000)
    with Job(tmp_path / "logs", *what, TMPDIR=str(volume), **REAL) as job:
        job.wait_for('"event": "epoch"')
        filler = full_disk.fill(volume)
        job.wait_for(LOST)
        # what was half written then is gone, and has left room
        job.wait_until(lambda: full_disk.top_up(filler) or "no more TensorBoard files" in job.out)
        here = epochs(job)
        job.wait_until(lambda: epochs(job) > here + 1)
        assert job.stop().wait() == 75, job.out
    assert "without a word" not in job.out
    assert job.out.count("no more TensorBoard files") == 1
    assert not (volume / "model.run/output/failure").exists()
    filler.unlink()
    with Job(tmp_path / "again", *what, TMPDIR=str(volume), **REAL) as job:
        job.wait_for('"resumed"').wait_for('"event": "epoch"')
        assert job.stop().wait() == 0, job.out


@pytest.mark.slow
def test_what_a_job_holds_already_is_enough_to_resume_and_to_end_it(tmp_path: Path, volume: Path) -> None:
    """18 MB a checkpoint, of which there are two by then: it goes on where four fit, and ends where none does."""
    what = ("--data", jobs.photos(tmp_path / "photos"), "--model-dir", volume / "model", *FLAGS, *SMALL, "--epochs")
    with Job(tmp_path / "logs", *what, 2, **REAL) as job:
        assert job.wait() == 0, job.out
    checkpoints = volume / "model.run/checkpoints"
    held = sum(path.stat().st_size for path in checkpoints.glob("*.pt"))
    filler = full_disk.fill(volume, leave=84_000_000 - held)
    with Job(tmp_path / "longer", *what, 4, **REAL) as job:
        assert job.wait() == 0, job.out
        assert LOST not in job.out
    filler.unlink()
    full_disk.fill(volume, leave=9_000_000)  # a report and its like; model and checkpoints are there
    with Job(tmp_path / "finished", *what, 4, **REAL) as job:
        assert job.wait() == 0, job.out
    assert epochs(job) == 0


@pytest.mark.slow
def test_a_volume_too_small_for_the_net_is_named_before_the_first_step(tmp_path: Path, volume: Path) -> None:
    """ResNet-18 with AdamW: 134 MB a checkpoint."""
    what = ("--data", jobs.photos(tmp_path / "photos"), "--model-dir", volume / "model", *FLAGS, "--architecture", "resnet18")
    with Job(tmp_path / "logs", *what, **REAL) as job:
        assert job.wait() == 2, job.out
    assert job.out.splitlines()[-1].startswith("ConfigError: ")
    assert "MB free and training needs 5" in job.out
    assert not list((volume / "model.run/checkpoints").glob("*.pt"))
