from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import artifacts
from tests.support.multi_model import Models
from tests.support.scripted import scripted
from tests.support.server import UNHURRIED, serving, until
from tests.support.slow_model import few_slots


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model directory, as training writes it."""
    directory = tmp_path_factory.mktemp("model")
    artifacts.save(directory)
    return directory


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """With few slots."""
    with few_slots(model_dir, tmp_path_factory.mktemp("log") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def limited(model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """With low limits on what a caller may send. Nothing that is sent makes it stumble, or write what is no JSON."""
    with serving(model_dir, tmp_path_factory.mktemp("log") / "log", max_body_mb=1, max_pixels=4_000_000, slots=16) as running:
        yield running
        assert not running.events("unexpected error")
        lines = running.log.read_text().splitlines()
        assert [line for line in lines if not line.startswith("{") or "Traceback" in line] == []


@pytest.fixture(scope="module")
def multi_model(tmp_path_factory: pytest.TempPathFactory):
    environ, folder = {"SAGEMAKER_MULTI_MODEL": "true"}, tmp_path_factory.mktemp("multi")
    with scripted(Path("/nowhere"), folder, environ, fronts=0, model_processes=0, **UNHURRIED) as engine:
        yield Models(engine)


@pytest.fixture
def models(multi_model: Models):
    """A multi-model server with no model and the default script; so again afterwards."""
    yield multi_model
    multi_model.play()
    until(multi_model.is_emptied, "no model is left")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(32) as executor:
        yield executor
