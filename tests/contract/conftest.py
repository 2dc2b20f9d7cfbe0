from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import artifacts
from tests.support.server import serving
from tests.support.slow_model import SLOTS


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model directory, as training writes it."""
    directory = tmp_path_factory.mktemp("model")
    artifacts.save(directory)
    return directory


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """With few slots, and a model process that may be stopped for long."""
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(model_dir, log, fronts=1, slots=SLOTS, stuck_after_seconds=600, max_batch=2) as running:
        yield running


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(32) as executor:
        yield executor
