"""Real launchers, real workers: one host, ended in every way a job can end. Two hosts are in test_two_hosts."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from containers.train import failure, launch, own_process
from containers.train.checkpoint import Checkpoints
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.job import Cluster, JobPaths, TrainingJob
from tests.support.stopwatch import Stopwatch
from tests.unit.train.jobs import STOP_SECONDS, Job


def test_one_host_trains_and_leaves_nothing_behind(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data) as job:
        assert job.wait() == 0, job.out
    assert (tmp_path / "model/done-0-0").exists()
    assert job.failure is None
    assert not list(tmp_path.glob("kennel-*")), "the scratch folder is deleted"
    assert json.loads((job.output / "data_report.json").read_text())["photos"]["train"] > 0


def test_a_data_error_in_a_worker_is_the_users(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="data0") as job:
        assert job.wait() == 2
    assert job.failure is not None
    assert job.failure.startswith("DataError: photo a.jpg cannot be used [rank 0 host localhost]\n")
    assert "tiny_worker.py" in job.failure


def test_a_killed_worker_is_said_to_be_out_of_memory(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="kill0") as job:
        assert job.wait() == 1
    assert job.failure is not None
    assert job.failure.startswith("WorkerFailed: was killed (SIGKILL), most often because memory ran out")


def test_stop_before_any_worker(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"dataset"')
        watch = Stopwatch()
        assert job.stop().wait() == 75, job.out
    assert watch.seconds < STOP_SECONDS
    assert job.failure is None
    assert not job.ranks()


def test_stop_during_work_commits_and_ends_with_success(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"working"')
        watch = Stopwatch()
        job.stop()
        job.stop()  # a second request changes nothing
        assert job.wait() == 0, job.out
    assert watch.seconds < STOP_SECONDS
    assert (tmp_path / "model.run/checkpoints/stopped-0").exists()
    assert job.failure is None


def test_workers_that_do_not_stop_are_killed_and_the_job_is_resumable(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="deaf", TINY_STOP_SECONDS="1") as job:
        job.wait_for('"working"').stop()
        assert job.wait() == 75, job.out
    assert job.failure is None
    assert "did not stop in time" in job.out


@pytest.mark.parametrize("how", ["nospace", "early"])
def test_a_stop_that_left_no_checkpoint_is_no_success(tmp_path: Path, data: Path, how: str) -> None:
    """The disk refused it, or there was nothing to keep yet: the same job started again is what is needed."""
    with Job.with_flags(tmp_path, data, how=how) as job:
        job.wait_for('"working"').stop()
        assert job.wait() == 75, job.out
    assert job.failure is None


def test_a_stop_is_never_answered_by_a_restart_also_where_the_disk_refused_the_checkpoint(tmp_path: Path, data: Path) -> None:
    """Only the rank was told to stop. Room does not come of starting again at once."""
    with Job.with_flags(tmp_path, data, "--max-restarts", 1, how="nospace") as job:
        job.wait_for('"working"')
        os.kill(int(str(job.ranks()[0]["pid"])), signal.SIGTERM)
        assert job.wait() == 75, job.out
    assert "restarts" not in job.out
    assert job.failure is not None
    assert job.failure.startswith("Uncommitted: stopped, and the disk refused the checkpoint")


@pytest.mark.parametrize(("gpus", "kind"), [(0, "cpu"), (1, "cuda"), (4, "cuda")])
def test_hosts_agree_on_the_kind_of_device_and_not_on_how_many(tmp_path: Path, gpus: int, kind: str) -> None:
    paths = JobPaths(**dict.fromkeys(JobPaths.model_fields, tmp_path))
    (tmp_path / "data_report.json").write_text('{"fingerprint": "abc"}')
    cluster = Cluster(hosts=("a", "b"), current_host="a")
    job = TrainingJob(name="job", config=TrainConfig(), cluster=cluster, paths=paths, channels={})
    agreed = launch.Launcher(job, "none", 1.0)._agreements(gpus)
    assert agreed[launch.KINDS_OF_DEVICE] == kind
    assert agreed["photos"] == "abc"


def test_what_is_said_when_even_killed_workers_do_not_end_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a single host, where nobody else can be silent."""

    class Deaf:
        stop = staticmethod(lambda: True)
        kill = staticmethod(lambda: None)

    class Left(Exception):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    report = tmp_path / "error.json"
    monkeypatch.setenv(failure.ERROR_FILE_VARIABLE, str(report))
    monkeypatch.setattr(own_process, "leave", leave)
    monkeypatch.setattr(launch, "_KILLED_SECONDS", 0.01)
    paths = JobPaths(**{name: tmp_path / name for name in JobPaths.model_fields})
    launcher = launch.Launcher(TrainingJob(name="job", config=TrainConfig(), paths=paths, channels={}), "none", 0.01)
    launcher._agent = Deaf()
    with pytest.raises(Left, match="75"):
        launcher._end_workers()
    told = failure.of_process(75, report).headline
    assert told.startswith("Interrupted: stopped; the workers were killed after 0 s and the launcher still waits")
    assert told.endswith("the last periodic checkpoint stands")
    assert "first host" not in told


@pytest.mark.slow
def test_a_step_that_does_not_end_leaves_the_checkpoint_before_it(tmp_path: Path, data: Path) -> None:
    flags = (
        "--architecture", "mobilenet_v3_small", "--pretrained", "none", "--image-size", "32", "--head-epochs", "0",
        "--batch-size", "4", "--num-workers", "0", "--engines", "none",
    )  # fmt: skip
    stuck = {"TINY_WORKER": "tests.unit.train.stuck_worker", "TINY_STOP_SECONDS": "3"}
    with Job.with_flags(tmp_path, data, *flags, **stuck) as job:
        job.wait_for("standing still").stop()
        assert job.wait() == 75, job.out
    assert job.failure is None
    assert "did not stop in time" in job.out
    restored = Checkpoints(tmp_path / "model.run/checkpoints", Group.alone()).restore()
    assert restored is not None
    assert (restored.state["progress"]["epoch"], restored.state["progress"]["step"]) == (1, 3)


def test_a_dead_launcher_takes_its_workers_along(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"working"')
        worker = psutil.Process(int(str(job.ranks()[0]["pid"])))
        worker.parent().kill()
        assert job.wait() == 1, job.out
        assert not worker.is_running()
    assert job.failure is not None
    assert job.failure.startswith("WorkerFailed: launch was killed (SIGKILL)")
