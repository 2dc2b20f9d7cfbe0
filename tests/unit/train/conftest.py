from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from containers.train.index import DatasetIndex
from containers.train.job import TrainingJob
from tests.support import training
from tests.unit.train import jobs


@pytest.fixture(autouse=True)
def _one_thread():
    """Forked ranks must not inherit a pool of threads that does not exist in them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> DatasetIndex:
    """22 training, 9 validation and 7 test photos of two classes."""
    return training.make_index(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixteen photos of two classes, for jobs as real processes."""
    return jobs.photos(tmp_path_factory.mktemp("data"))


@pytest.fixture
def job(tmp_path: Path, index: DatasetIndex) -> Callable[..., TrainingJob]:
    """job("a", epochs=3): a tiny job with directories of its own. The same name again: the same job, restarted."""
    return lambda name="job", **config: training.make_job(tmp_path / name, config.pop("index", index), **config)
