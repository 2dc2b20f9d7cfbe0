"""Real launchers, real workers, two hosts: who meets, who is named, and that nobody waits for one that cannot come."""

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from containers.train import hosts
from containers.train.failure import FAILURE_BYTES
from tests.support.stopwatch import Stopwatch
from tests.unit.train import jobs
from tests.unit.train.jobs import STOP_SECONDS, Job


def two_hosts(stack: ExitStack, folder: Path, data: Path, *flags: object, how: str = "work", **environ: str) -> tuple[Job, Job]:
    """127.0.0.1 leads. The other is started first, so that the leader is always late."""
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), *flags)
    other = stack.enter_context(Job.with_flags(folder / "b", data, *common, "--current-host", "127.0.0.2", how=how, **environ))
    other.wait_for("waiting for the first host")
    leader = stack.enter_context(Job.with_flags(folder / "a", data, *common, "--current-host", "127.0.0.1", how=how, **environ))
    return leader, other


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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killonce0", "abortonce0"])
def test_a_lost_worker_is_replaced_once_on_all_hosts(tmp_path: Path, data: Path, how: str) -> None:
    """Two ranks meet again after one was killed: the new group must not read the old one's addresses (torch 2.10)."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, "--max-restarts", 1, how=how)
        assert (leader.wait(), other.wait()) == (0, 0), leader.out + other.out
    assert (tmp_path / "a/model/done-0-1").exists()
    assert len(list((tmp_path / "b/model").glob("done-1-*"))) == 1
    assert (leader.failure, other.failure) == (None, None)


def test_stop_while_the_other_host_has_not_come(tmp_path: Path, data: Path) -> None:
    """Torch waits in native code then, and hears nothing."""
    flags = ("--hosts", "127.0.0.1,127.0.0.2", "--current-host", "127.0.0.1", "--rendezvous-port", jobs.free_port())
    with Job.with_flags(tmp_path, data, *flags) as job:
        job.wait_for("starting workers")
        watch = Stopwatch()
        assert job.stop().wait() == 75, job.out
    assert watch.seconds < STOP_SECONDS
    assert "stopped while waiting for the other hosts" in job.out
    assert job.failure is None


_SLOW_STEP = """
import sys
if "containers.train.{step}" in sys.orig_argv:
    import time
    print("{step} takes long", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "step"), [("127.0.0.1", "preflight"), ("127.0.0.2", "launch")])
def test_a_host_stopped_before_it_has_gathered_tells_those_that_do(tmp_path: Path, data: Path, stopped: str, step: str) -> None:
    """It checks its photos, or its launcher imports torch. The other would wait half an hour."""
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), "--current-host")
    gathers = "127.0.0.1" if stopped == "127.0.0.2" else "127.0.0.2"
    path = jobs.customized(tmp_path / "slow", _SLOW_STEP.format(step=step))
    with (
        Job.with_flags(tmp_path / "a", data, *common, stopped, PYTHONPATH=path) as first,
        Job.with_flags(tmp_path / "b", data, *common, gathers) as second,
    ):
        first.wait_for(f"{step} takes long")
        second.wait_for("waiting for the first host" if gathers == "127.0.0.2" else "starting workers")
        watch = Stopwatch()
        assert (first.stop().wait(), second.wait()) == (75, 75), first.out + second.out
    assert watch.seconds < 120
    assert first.failure is None
    assert second.failure is not None
    assert second.failure.startswith("Interrupted: asked to stop before it had gathered with the other hosts")
    assert f"[host {stopped}]" in second.failure


@pytest.mark.slow
def test_a_host_stopped_while_it_waits_for_the_first_tells_it(tmp_path: Path, data: Path) -> None:
    """The first still checks its photos, so that there is no store yet to say it in."""
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), "--current-host")
    path = jobs.customized(tmp_path / "slow", _SLOW_STEP.format(step="preflight").replace("600", "8"))
    with (
        Job.with_flags(tmp_path / "a", data, *common, "127.0.0.1", PYTHONPATH=path) as first,
        Job.with_flags(tmp_path / "b", data, *common, "127.0.0.2") as second,
    ):
        first.wait_for("preflight takes long")
        second.wait_for("waiting for the first host")
        assert (second.stop().wait(), first.wait()) == (75, 75), first.out + second.out
    assert second.failure is None
    assert first.failure is not None
    assert first.failure.startswith("Interrupted: asked to stop before it had gathered with the other hosts")


@pytest.mark.slow
def test_two_hosts_agree_on_ranks_and_on_a_stop(tmp_path: Path, data: Path) -> None:
    """The leader is late, and only the other host is asked to stop."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, how="forever")
        leader.wait_for('"working"')
        other.wait_for('"working"').stop()
        watch = Stopwatch()
        assert other.wait() == 0, other.out
        assert leader.wait() == 75, leader.out
        assert watch.seconds < 30
    seen = [tuple(map(tuple, rank["seen"])) for job in (leader, other) for rank in job.ranks()]
    assert seen == [((0, "127.0.0.1"), (1, "127.0.0.2"))] * 2
    environment = leader.ranks()[0]["environment"]
    assert (environment["GLOO_SOCKET_IFNAME"], environment["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
    assert other.failure is None
    assert leader.failure is not None
    assert leader.failure.startswith("Interrupted: ")
    assert not list(tmp_path.glob("*/model/done*"))


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
@pytest.mark.parametrize("wrong", ["127.0.0.1", "127.0.0.2"])
def test_a_host_that_is_to_start_more_processes_than_it_has_gpus_tells_those_that_gather(
    tmp_path: Path, data: Path, wrong: str
) -> None:
    """Its own launcher would refuse, and the other would wait half an hour for a group that never forms."""
    common = ("--hosts", "127.0.0.2,127.0.0.1", "--rendezvous-port", jobs.free_port(), "--current-host")
    right = "127.0.0.1" if wrong == "127.0.0.2" else "127.0.0.2"
    flags, path = ("--processes-per-host", 3, "--device", "auto"), jobs.two_gpus(tmp_path / "gpus")
    with (
        Job.with_flags(tmp_path / "wrong", data, *common, wrong, *flags, PYTHONPATH=path) as first,
        Job.with_flags(tmp_path / "right", data, *common, right) as second,
    ):
        assert (first.wait(), second.wait()) == (2, 2), first.out + second.out
    for job in (first, second):
        assert job.failure is not None
        assert job.failure.startswith(f"ConfigError: --processes-per-host is 3 and host {wrong} has 2 GPU(s)")
        assert f"[host {wrong}]" in job.failure


TWO, THREE, STRANGE = "127.0.0.1,127.0.0.2", "127.0.0.1,127.0.0.2,127.0.0.3", "127.0.0.1,127.0.0.3"


@pytest.mark.slow
@pytest.mark.parametrize(("firsts", "others"), [(THREE, TWO), (TWO, THREE), (STRANGE, TWO)])
def test_hosts_that_count_different_hosts_end_at_once(tmp_path: Path, data: Path, firsts: str, others: str) -> None:
    """By the count of whoever comes last torch takes the two for a whole group, or not."""
    port = ("--rendezvous-port", jobs.free_port(), "--hosts")
    with (
        Job.with_flags(tmp_path / "a", data, *port, firsts, "--current-host", "127.0.0.1") as first,
        Job.with_flags(tmp_path / "b", data, *port, others, "--current-host", "127.0.0.2") as second,
    ):
        assert (first.wait(), second.wait()) == (2, 2), first.out + second.out
    for job in (first, second):
        assert job.failure is not None
        assert job.failure.startswith(
            "ConfigError: the lists of hosts (--hosts) of host 127.0.0.2 differ from those of host 127.0.0.1"
        )


@pytest.mark.slow
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
@pytest.mark.parametrize("how", ["forever", "aborts"])
def test_a_host_that_dies_is_named(tmp_path: Path, data: Path, how: str) -> None:
    """Also where the ranks that lost it abort, as NCCL makes them: nobody may wait for it to come back."""
    with ExitStack() as stack:
        leader, other = two_hosts(stack, tmp_path, data, "--max-restarts", 1, how=how)
        leader.wait_for('"working"')
        other.wait_for('"working"')
        for process in [*psutil.Process(other.process.pid).children(recursive=True), other.process]:
            os.kill(process.pid, signal.SIGKILL)
        assert leader.wait() == 75, leader.out
    assert leader.failure is not None
    assert leader.failure.startswith("PeerLost: ")
    assert "127.0.0.2" in leader.failure
