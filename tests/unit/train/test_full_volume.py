"""One small volume for everything a job writes, as on a laptop or a small instance, that somebody else fills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import full_disk
from tests.unit.train import jobs
from tests.unit.train.jobs import Job

LOST = "checkpoint not written; the previous one stays the newest"
FLAGS = (
    "--architecture", "mobilenet_v3_small", "--pretrained", "none", "--image-size", "32", "--head-epochs", "0",
    "--batch-size", "4", "--num-workers", "0", "--engines", "none", "--epochs", "10000", "--patience", "0",
)  # fmt: skip
REAL = {"TINY_WORKER": "containers.train.worker"}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    with full_disk.small_volume(tmp_path / "volume", 1300) as folder:
        yield folder


def epochs(job: Job) -> int:
    return job.out.count('"event": "epoch"')


@pytest.mark.slow
def test_training_goes_on_and_a_stop_is_resumable_and_never_without_a_word(tmp_path: Path, volume: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    where = ("--data", data, "--model-dir", volume / "model", "--device", "cpu")
    with Job(tmp_path / "logs", *where, *FLAGS, TMPDIR=str(volume), **REAL) as job:
        job.wait_for('"event": "epoch"')
        filler = full_disk.fill(volume)
        job.wait_for(LOST).wait_for("no more TensorBoard files")
        here = epochs(job)
        job.wait_until(lambda: epochs(job) > here + 1)
        assert job.stop().wait() == 75, job.out
    assert "without a word" not in job.out
    assert job.out.count("no more TensorBoard files") == 1
    assert not (volume / "model.run/output/failure").exists()
    filler.unlink()
    with Job(tmp_path / "again", *where, *FLAGS, TMPDIR=str(volume), **REAL) as job:
        job.wait_for('"resumed"').wait_for('"event": "epoch"')
        assert job.stop().wait() == 0, job.out
