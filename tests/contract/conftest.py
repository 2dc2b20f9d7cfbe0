from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import artifacts
from tests.support.multi_model import Models
from tests.support.scripted import scripted
from tests.support.server import serving, until
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
def multi_model(tmp_path_factory: pytest.TempPathFactory):
    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    with scripted(Path("/nowhere"), tmp_path_factory.mktemp("multi"), environ, fronts=0, model_processes=0) as engine:
        yield Models(engine)


@pytest.fixture
def models(multi_model: Models):
    """A multi-model server with no model and the default script; so again afterwards."""
    yield multi_model
    multi_model.play()
    for name in multi_model.names:
        multi_model.unload(name)
    until(lambda: not multi_model.server.processes("kennel-model"), "no model is left")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(32) as executor:
        yield executor
