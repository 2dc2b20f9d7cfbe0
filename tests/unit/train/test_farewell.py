"""What a host that is not fit leaves for those that gather: real rendezvous on loopback. Whole jobs are in test_two_hosts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import PrefixStore, Store
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousHandler

from containers.train import farewell, rendezvous
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from containers.train.failure import Failure
from containers.train.job import Cluster, JobPaths, TrainingJob
from tests.unit.train.jobs import free_port
from tests.unit.train.test_hosts import Clock

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
WHY = Failure.of(DataError("photo x.jpg cannot be used"), host=NAMES[1])


@pytest.fixture
def jobs(tmp_path: Path) -> list[TrainingJob]:
    """The first host's, the second's, the third's."""
    port = free_port()
    names = ("model_dir", "output_dir", "checkpoint_dir", "failure_file", "scratch_dir")
    paths = JobPaths(**{name: tmp_path / name for name in names})
    clusters = [Cluster(hosts=NAMES, current_host=name, rendezvous_port=port) for name in NAMES]
    return [TrainingJob(name="job", config=TrainConfig(), cluster=each, paths=paths, channels={}) for each in clusters]


def gathering(job: TrainingJob) -> RendezvousHandler:
    return rendezvous.plan(job, gpus=0, cores=1, address=job.cluster.current_host, interface="lo").handler()


def store(handler: RendezvousHandler) -> Store:
    return PrefixStore("kennel.job", handler._store)


def test_every_host_that_gathers_or_comes_later_ends_with_what_was_said(jobs: list[TrainingJob]) -> None:
    first = gathering(jobs[0])
    farewell.say(gathering(jobs[1]), jobs[1], WHY)
    with pytest.raises(RendezvousClosedError):
        first.next_rendezvous()
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(farewell.hear, first, jobs[0])
        with pytest.raises(TimeoutError):
            leaving.result(1.0)  # the first host keeps the store, and the third has not come
        third = gathering(jobs[2])
        with pytest.raises(RendezvousClosedError):
            third.next_rendezvous()
        assert farewell.hear(third, jobs[2]) == WHY
        assert leaving.result(60) == WHY


def test_a_rendezvous_that_was_closed_for_another_reason_says_nothing(jobs: list[TrainingJob]) -> None:
    first = gathering(jobs[0])
    first.set_closed()
    assert farewell.hear(first, jobs[0]) is None


def test_the_first_host_does_not_wait_for_ever_for_one_that_never_comes(
    jobs: list[TrainingJob], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    farewell._heard(store(gathering(jobs[0])), jobs[0].cluster, NAMES, farewell.STAY_SECONDS, clock=clock, pause=clock.pause)
    assert farewell.STAY_SECONDS <= clock() < farewell.STAY_SECONDS + 1
    assert "not every host has heard" in caplog.text


def test_who_gives_up_does_not_wait_for_those_that_never_came(jobs: list[TrainingJob]) -> None:
    first, second = gathering(jobs[0]), gathering(jobs[1])
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(farewell.give_up, first, jobs[0], WHY, NAMES[:2])
        with pytest.raises(RendezvousClosedError):
            second.next_rendezvous()
        assert farewell.hear(second, jobs[1]) == WHY
        leaving.result(20)
