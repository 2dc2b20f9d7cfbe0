import gc
import multiprocessing
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from containers.train import results, worker
from containers.train.index import DatasetIndex
from containers.train.job import TrainingJob
from tests.support import training
from tests.unit.train import boards, jobs


@pytest.fixture(autouse=True)
def _one_thread():
    """Forked ranks must not inherit a pool of threads that does not exist in them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_loader_is_left() -> Iterator[None]:
    """The error that ended a test may hold its loader process until then. It ignores SIGTERM, with which Python's own end would
    ask it to end, and wait for ever.
    """
    yield
    gc.collect()
    for left in multiprocessing.active_children():
        left.kill()
        left.join()


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> DatasetIndex:
    """22 training, 9 validation and 7 test photos of two classes."""
    return training.make_index(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixteen photos of two classes, for jobs as real processes."""
    return jobs.photos(tmp_path_factory.mktemp("data"))


@pytest.fixture
def store() -> Iterator[TCPStore]:
    """What boards of hosts speak through."""
    yield TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    boards.end_all()


@pytest.fixture
def job(tmp_path: Path, index: DatasetIndex) -> Callable[..., TrainingJob]:
    """job("a", epochs=3): a tiny job with directories of its own. The same name again: the same job, restarted."""
    return lambda name="job", **config: training.make_job(tmp_path / name, config.pop("index", index), **config)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, index):
    """Run once, compared with often."""
    torch.set_num_threads(1)
    job = training.make_job(tmp_path_factory.mktemp("undisturbed"), index)
    training.train(job)
    return job


@pytest.fixture(scope="session")
def undisturbed_pair(tmp_path_factory, index):
    """The same job on two ranks; each leaves the weights it has at the end in `scratch_dir`."""
    torch.set_num_threads(1)
    job = training.make_job(tmp_path_factory.mktemp("pair"), index)

    def main(job_file):
        write = results.write_model

        def told(run, *arguments):
            written = write(run, *arguments)
            torch.save(run.model.state_dict(), job_file.with_name(f"end-{run.group.rank}.pt"))
            return written

        results.write_model = told  # in a forked process of its own
        return worker.main(job_file)

    return job, training.train(job, world_size=2, main=main)
