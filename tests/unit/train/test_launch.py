"""Real launchers, real workers: one host and two, ended in every way a job can end."""

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from containers.train import failure, hosts, launch
from containers.train.checkpoint import Checkpoints
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.failure import FAILURE_BYTES
from containers.train.job import Cluster, JobPaths, TrainingJob
from tests.unit.train import jobs
from tests.unit.train.jobs import Job

STOP_SECONDS = 20.0
"""What the issue allows from SIGTERM to the end; tiny workers need a fraction of it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jobs.photos(tmp_path_factory.mktemp("photos"))


def two_hosts(stack: ExitStack, folder: Path, data: Path, *flags: object, how: str = "work", **environ: str) -> tuple[Job, Job]:
    """127.0.0.1 leads. The other is started first, so that the leader is always late."""
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), *flags)
    other = stack.enter_context(Job.with_flags(folder / "b", data, *common, "--current-host", "127.0.0.2", how=how, **environ))
    other.wait_for("waiting for the first host")
    leader = stack.enter_context(Job.with_flags(folder / "a", data, *common, "--current-host", "127.0.0.1", how=how, **environ))
    return leader, other


def test_one_host_trains_and_leaves_nothing_behind(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data) as job:
        assert job.wait() == 0, job.out
    assert (tmp_path / "model/done-0-0").exists()
    assert job.failure is None
    assert not list(tmp_path.glob("kennel-*")), "the scratch folder is deleted"
    assert json.loads((job.output / "data_report.json").read_text())["photos"]["train"] > 0


@pytest.mark.slow
def test_both_hosts_name_the_rank_that_failed_first(tmp_path: Path, data: Path) -> None:
    """Rank 0's own error, not the "connection closed by peer" of rank 1; also on the host that only lost its peer."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, "--max-restarts", 1, how="raise0", TINY_TAIL="é" * 3000)
        codes = leader.wait(), other.wait()
    assert codes == (1, 1), leader.out + other.out
    for job in (leader, other):
        text = (job.output / "failure").read_bytes()
        assert text.decode().startswith("ValueError: class folder 'x' is empty, ünïcode")
        assert "[rank 0 host 127.0.0.1]" in text.decode()
        assert len(text) <= FAILURE_BYTES
        assert json.loads((job.output / "failure.json").read_text())["kind"] == "ValueError"
    assert "restarts" not in leader.out, "an error of its own would come again"


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


@pytest.mark.slow
def test_a_lost_worker_is_replaced_once_on_all_hosts(tmp_path: Path, data: Path) -> None:
    """Two ranks meet again after one was killed: the new group must not read the old one's addresses (torch 2.10)."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, "--max-restarts", 1, how="killonce0")
        assert (leader.wait(), other.wait()) == (0, 0), leader.out + other.out
    assert (tmp_path / "a/model/done-0-1").exists()
    assert len(list((tmp_path / "b/model").glob("done-1-*"))) == 1
    assert (leader.failure, other.failure) == (None, None)


def test_stop_before_any_worker(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"dataset"')
        began = time.monotonic()
        assert job.stop().wait() == 75, job.out
    assert time.monotonic() - began < STOP_SECONDS
    assert job.failure is None
    assert not job.ranks()


def test_stop_while_the_other_host_has_not_come(tmp_path: Path, data: Path) -> None:
    """Torch waits in native code then, and hears nothing."""
    flags = ("--hosts", "127.0.0.1,127.0.0.2", "--current-host", "127.0.0.1", "--rendezvous-port", jobs.free_port())
    with Job.with_flags(tmp_path, data, *flags) as job:
        job.wait_for("starting workers")
        began = time.monotonic()
        assert job.stop().wait() == 75, job.out
    assert time.monotonic() - began < STOP_SECONDS
    assert "stopped while waiting for the other hosts" in job.out
    assert job.failure is None


def test_stop_during_work_commits_and_ends_with_success(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"working"')
        began = time.monotonic()
        job.stop()
        job.stop()  # a second request changes nothing
        assert job.wait() == 0, job.out
    assert time.monotonic() - began < STOP_SECONDS
    assert (tmp_path / "model.run/checkpoints/stopped-0").exists()
    assert job.failure is None


@pytest.mark.slow
def test_two_hosts_agree_on_ranks_and_on_a_stop(tmp_path: Path, data: Path) -> None:
    """The leader is late, and only the other host is asked to stop."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, how="forever")
        leader.wait_for('"working"')
        other.wait_for('"working"').stop()
        began = time.monotonic()
        assert other.wait() == 0, other.out
        assert leader.wait() == 75, leader.out
        assert time.monotonic() - began < 30
    seen = [tuple(map(tuple, rank["seen"])) for job in (leader, other) for rank in job.ranks()]
    assert seen == [((0, "127.0.0.1"), (1, "127.0.0.2"))] * 2
    environment = leader.ranks()[0]["environment"]
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
    assert other.failure is None
    assert leader.failure is not None
    assert leader.failure.startswith("Interrupted: ")
    assert not list(tmp_path.glob("*/model/done*"))


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
    monkeypatch.setattr(failure, "leave", leave)
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
@pytest.mark.parametrize("unfit", ["127.0.0.1", "127.0.0.2"])
def test_a_host_that_is_not_fit_to_train_tells_those_that_gather(tmp_path: Path, data: Path, unfit: str) -> None:
    """Its photos cannot be used; the other would wait half an hour. Whether it leads or not, and though it comes first."""
    broken = jobs.photos(tmp_path / "broken", classes=("cat",))
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), "--current-host")
    fit = "127.0.0.1" if unfit == "127.0.0.2" else "127.0.0.2"
    with (
        Job.with_flags(tmp_path / "unfit", broken, *common, unfit) as first,
        Job.with_flags(tmp_path / "fit", data, *common, fit) as second,
    ):
        assert (first.wait(), second.wait()) == (2, 2), first.out + second.out
    for job in (first, second):
        assert job.failure is not None
        assert job.failure.startswith(f"DataError: there is only one class (cat): a classifier needs two [host {unfit}]")


@pytest.mark.slow
@pytest.mark.parametrize("unfit", ["127.0.0.1", "127.0.0.2"])
def test_a_host_whose_settings_cannot_be_read_tells_those_that_gather(tmp_path: Path, data: Path, unfit: str) -> None:
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), "--current-host")
    fit = "127.0.0.1" if unfit == "127.0.0.2" else "127.0.0.2"
    with (
        Job.with_flags(tmp_path / "unfit", data, *common, unfit, "--learning-rate", "-1") as first,
        Job.with_flags(tmp_path / "fit", data, *common, fit) as second,
    ):
        assert (first.wait(), second.wait()) == (2, 2), first.out + second.out
    assert second.failure is not None
    assert second.failure.startswith("ConfigError: ")
    assert "learning_rate" in second.failure
    assert f"[host {unfit}]" in second.failure
    assert not list(tmp_path.glob("unfit/kennel-*")), "the scratch folder is deleted"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lost", ["leader", "other"])
def test_a_host_that_stands_still_is_given_up_and_named(tmp_path: Path, data: Path, lost: str) -> None:
    """As a host behind a partition looks: its connections live, and nothing answers. A minute, not TCP's quarter of an hour."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, how="forever")
        still, alive = (leader, other) if lost == "leader" else (other, leader)
        leader.wait_for('"working"')
        other.wait_for('"working"')
        family = [*psutil.Process(still.process.pid).children(recursive=True), psutil.Process(still.process.pid)]
        for process in family:
            process.suspend()
        try:
            began = time.monotonic()
            assert alive.wait(300) == 75, alive.out
            assert time.monotonic() - began > hosts.LOST_SECONDS - 10, "a pause of seconds must be survived"
        finally:
            for process in family:
                process.kill()
    assert alive.failure is not None
    assert alive.failure.startswith("PeerLost: ")
    assert {"leader": "127.0.0.1", "other": "127.0.0.2"}[lost] in alive.failure


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


@pytest.mark.slow
def test_a_host_that_dies_is_named(tmp_path: Path, data: Path) -> None:
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, "--max-restarts", 1, how="forever")
        leader.wait_for('"working"')
        other.wait_for('"working"')
        for process in [*psutil.Process(other.process.pid).children(recursive=True), other.process]:
            os.kill(process.pid, signal.SIGKILL)
        assert leader.wait() == 75, leader.out
    assert leader.failure is not None
    assert leader.failure.startswith("PeerLost: ")
    assert "127.0.0.2" in leader.failure


def test_a_dead_launcher_takes_its_workers_along(tmp_path: Path, data: Path) -> None:
    with Job.with_flags(tmp_path, data, how="forever") as job:
        job.wait_for('"working"')
        worker = psutil.Process(int(str(job.ranks()[0]["pid"])))
        worker.parent().kill()
        assert job.wait() == 1, job.out
        assert not worker.is_running()
    assert job.failure is not None
    assert job.failure.startswith("WorkerFailed: launch was killed (SIGKILL)")
