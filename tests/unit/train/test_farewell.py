"""What a host that is not fit leaves for those that gather: real rendezvous on loopback. Whole jobs are in test_two_hosts."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import PrefixStore, Store
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousHandler

from containers.train import farewell, rendezvous
from containers.train import gathering as train_gathering
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from containers.train.failure import Failure
from containers.train.job import Cluster, JobPaths, TrainingJob
from tests.unit.train.boards import Clock
from tests.unit.train.jobs import free_port

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


@pytest.mark.parametrize("came", [NAMES[:1], NAMES[:2]], ids=["waits for this host", "is of an earlier start"])
def test_a_first_host_that_goes_is_missed_by_who_listens_where_it_waited(
    jobs: list[TrainingJob], came: tuple[str, ...]
) -> None:
    """A start before this one may still be ending: this host had come to its store, and has not come yet."""
    first, seen, told = gathering(jobs[0]), list[str](), list[Failure]()
    for name in came:
        train_gathering.came(first, "job", name)
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(farewell.listen, jobs[1], lambda: seen.append("waits"), told.append)
        store(first).wait(["listens/127.0.0.2"])
        with pytest.raises(TimeoutError):
            listening.result(1.0)
        del first
        gc.collect()
        assert listening.result(60) is (came == NAMES[:1])
    assert (seen, [why.kind for why in told]) == ((["waits"], ["PeerLost"]) if came == NAMES[:1] else ([], []))


def test_who_listens_hears_of_a_host_that_had_gathered_and_is_waited_for(
    jobs: list[TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "_POLL_SECONDS", 3.0)  # who did not wait would be gone before it looks again
    first, told = gathering(jobs[0]), list[Failure]()
    with ThreadPoolExecutor(2) as pool:
        listening = pool.submit(farewell.listen, jobs[1], lambda: None, told.append)
        store(first).wait(["listens/127.0.0.2"])
        time.sleep(0.5)  # it has looked once
        farewell.give_up(first, jobs[0], WHY, NAMES[:1])
        assert store(first).check(["heard/127.0.0.2"])
        assert listening.result(20)
    assert told == [WHY]


def test_what_this_host_said_itself_before_it_was_started_again_is_not_heard(jobs: list[TrainingJob]) -> None:
    first, told = gathering(jobs[0]), list[Failure]()
    store(first).set("gave-up/127.0.0.2", WHY.model_dump_json())
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(farewell.listen, jobs[1], lambda: None, told.append)
        with pytest.raises(TimeoutError):
            listening.result(2.0)
        assert told == []
        store(first).set("gave-up/127.0.0.1", WHY.model_dump_json())
        assert listening.result(60)
