"""Two containers, a private network, gloo: what happens when one of the hosts is late, stopped, killed or cut off."""

import json

import pytest

from tests.support import engine as docker_engine
from tests.support import hosts as hosts_support
from tests.support.hosts import ENDLESS, QUICK, START_SECONDS, events


@pytest.fixture
def start(engine, train_image, few, tmp_path):
    """start(hyperparameters) → two hosts, not started."""

    def made(hyperparameters):
        return hosts_support.hosts(engine, train_image, few, tmp_path, hyperparameters)

    return made


def training(job, epochs=1):
    """Wait until rank 0 has logged so many epochs."""
    box = job.boxes["algo-1"]
    docker_engine.wait_until(lambda: len(events(box, "epoch")) >= epochs or _ended(job), START_SECONDS, f"epoch {epochs}")


def _ended(job):
    for name, box in job.boxes.items():
        box.reload()
        if box.status == "exited":
            raise RuntimeError(f"{name} ended; its log ends:\n{docker_engine.logs(box)[-3000:]}")


def checkpoint(job, name="algo-1"):
    return json.loads((job.roots[name] / "checkpoints" / "latest.json").read_text())


def test_a_late_leader_is_waited_for_and_only_it_writes_the_model(start):
    with start(QUICK) as job:
        second = job.start("algo-2")
        docker_engine.wait_for_log(second, '"event": "dataset"', START_SECONDS)  # it is far ahead of a host without a process
        first = job.start("algo-1")
        assert [docker_engine.exit_code(box, START_SECONDS) for box in (first, second)] == [0, 0]
        assert "manifest.json" in job.model_files("algo-1")
        assert job.model_files("algo-2") == set()
        assert len(events(first, "epoch")) == 2
        assert events(second, "epoch") == []
        assert {name: job.failure(name) for name in job.roots} == {"algo-1": "", "algo-2": ""}


def test_sigterm_to_one_host_stops_both_with_a_checkpoint_and_one_host_resumes(start):
    with start(ENDLESS) as job:
        first, second = job.start("algo-1"), job.start("algo-2")
        training(job, epochs=2)
        second.kill("SIGTERM")
        codes = {"asked": docker_engine.exit_code(second, 100), "peer": docker_engine.exit_code(first, 100)}
        assert codes == {"asked": 0, "peer": 75}
        step = checkpoint(job)["step"]
        assert step > 0
    # what two hosts began, one goes on with: the same checkpoints and settings, a cluster of one
    docker_engine.opt_ml(job.roots["algo-1"], ENDLESS, channels=list(job.channels))
    volumes = docker_engine.mounts(job.roots["algo-1"], job.channels)
    options = {"volumes": volumes, "network_mode": "none", "environment": {"TRAINING_JOB_NAME": "two-hosts"}}
    with docker_engine.container(job.client, job.image, "train", **options) as alone:
        docker_engine.wait_until(lambda: len(events(alone, "epoch")) > 1, START_SECONDS, "an epoch after resuming")
        (resumed,) = events(alone, "resumed")
        assert resumed["step"] == step
        alone.kill("SIGTERM")
        assert docker_engine.exit_code(alone, 100) == 0
    assert checkpoint(job)["step"] > step
    assert "manifest.json" in job.model_files("algo-1")


def test_a_killed_host_is_named_by_the_other(start):
    with start(ENDLESS) as job:
        first, second = job.start("algo-1"), job.start("algo-2")
        training(job)
        second.kill("SIGKILL")
        assert docker_engine.exit_code(first, 120) == 75
        assert job.failure("algo-1").startswith("PeerLost")
        assert "algo-2" in job.failure("algo-1")
        assert (job.roots["algo-1"] / "checkpoints" / "latest.json").exists()


def stops_alone(job):
    """The first host has gone on by itself, and a stop finds it as it finds any single host."""
    first = job.boxes["algo-1"]
    docker_engine.wait_until(lambda: events(first, "resumed"), START_SECONDS, "going on without the other")
    enough = len(events(first, "epoch")) + 2
    docker_engine.wait_until(lambda: len(events(first, "epoch")) >= enough, START_SECONDS, "two more epochs")
    assert events(first, "epoch")[-1]["world_size"] == 1
    first.kill("SIGTERM")
    assert docker_engine.exit_code(first, 100) == 0
    assert job.failure("algo-1") == ""
    assert "manifest.json" in job.model_files("algo-1")


def test_a_job_that_may_lose_a_host_goes_on_when_it_is_killed(start):
    with start(ENDLESS | {"min_hosts": 1}) as job:
        job.start("algo-1")
        second = job.start("algo-2")
        training(job, epochs=2)
        second.kill("SIGKILL")
        docker_engine.exit_code(second, 100)
        stops_alone(job)


def test_only_the_first_host_goes_on_when_the_network_parts_them(start):
    """Both live, and neither hears the other: one trains on, one ends."""
    with start(ENDLESS | {"min_hosts": 1}) as job:
        job.start("algo-1")
        second = job.start("algo-2")
        training(job, epochs=2)
        job.cut("algo-2")
        assert docker_engine.exit_code(second, 240) == 75
        assert job.failure("algo-2").startswith("PeerLost")
        assert job.model_files("algo-2") == set()
        stops_alone(job)


def test_a_killed_leader_is_named_too(start):
    with start(ENDLESS) as job:
        first, second = job.start("algo-1"), job.start("algo-2")
        training(job)
        first.kill("SIGKILL")
        assert docker_engine.exit_code(second, 120) == 75
        assert job.failure("algo-2").startswith("PeerLost")
        assert "algo-1" in job.failure("algo-2")


def test_a_partition_that_heals_is_survived(start):
    """Seconds without a network: TCP retransmits, nobody gives up, and no epoch is lost."""
    with start(ENDLESS) as job:
        first, second = job.start("algo-1"), job.start("algo-2")
        training(job)
        job.cut("algo-2")
        before = len(events(first, "epoch"))
        docker_engine.wait_until(lambda: _silent_for(first, 4), 60, "a pause in training")
        job.mend("algo-2")
        training(job, epochs=before + 3)
        numbers = [line["epoch"] for line in events(first, "epoch")]
        assert numbers == list(range(1, len(numbers) + 1))
        first.kill("SIGTERM")
        assert docker_engine.exit_code(first, 100) == 0
        assert docker_engine.exit_code(second, 100) == 75


def test_a_partition_that_does_not_heal_ends_both_hosts_with_the_others_name(start):
    """Nobody closes a connection, so nobody hears of it: a minute, not the quarter of an hour that TCP retransmits for."""
    with start(ENDLESS) as job:
        first, second = job.start("algo-1"), job.start("algo-2")
        training(job)
        job.cut("algo-2")
        assert [docker_engine.exit_code(box, 240) for box in (first, second)] == [75, 75]
        for name, other in (("algo-1", "algo-2"), ("algo-2", "algo-1")):
            assert job.failure(name).startswith("PeerLost")
            assert other in job.failure(name)
        assert (job.roots["algo-1"] / "checkpoints" / "latest.json").exists()


def _silent_for(box, seconds):
    """No new epoch for so long: training stands still."""
    import time

    count, since = len(events(box, "epoch")), time.monotonic()
    while time.monotonic() - since < seconds:
        if len(events(box, "epoch")) != count:
            return False
        time.sleep(0.2)
    return True
