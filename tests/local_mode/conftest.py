"""Local mode runs in a virtual environment of its own (requirements/local.lock): the SDK brings another Flask and gunicorn.

KENNEL_LOCAL_DATA chooses other photos (train/, valid/ and test/, each with a folder per class).
"""

import gc
import importlib.util
import os
import shutil
import warnings
from pathlib import Path

import pytest

from tests.support import engine as docker_engine
from tests.support.requirement import unavailable

EXAMPLES = Path(__file__).parents[2] / "examples" / "photos"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))
            item.add_marker(pytest.mark.filterwarnings("default"))  # the SDK's own warnings are not ours to mend


@pytest.fixture(scope="session")
def sdk(engine):
    """tests.local_mode.sdk; and nothing of it is left on the machine afterwards."""
    if importlib.util.find_spec("sagemaker") is None:
        unavailable("the SageMaker SDK is not in this environment: make test makes one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.local_mode import sdk
    before = _networks(engine)
    yield sdk
    for network in engine.networks.list():
        network.reload()
        if network.id in _networks(engine) - before and not network.containers:
            network.remove()
    assert _networks(engine) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK leaves the pipes of its serving container to the collector
        gc.collect()


def _networks(engine) -> set[str]:
    """Of those that local mode makes."""
    return {
        network.id for network in engine.networks.list() if network.name == "sagemaker-local" or network.name.startswith("job-")
    }


@pytest.fixture(scope="session")
def classic(engine, serve_image):
    """An image that is not ours: the classic Flask sample's shape."""
    folder = Path(__file__).parents[1] / "container" / "classic_byoc"
    with docker_engine.built(engine, folder, serve_image) as tag:
        yield tag


@pytest.fixture(scope="session")
def photos() -> Path:
    """A dataset with the splits train, valid and test."""
    return Path(os.environ.get("KENNEL_LOCAL_DATA", EXAMPLES)).resolve()


@pytest.fixture(scope="session")
def channels(photos) -> dict[str, Path]:
    return {split: photos / split for split in ("train", "valid", "test")}


@pytest.fixture(scope="session")
def few(photos, tmp_path_factory) -> dict[str, Path]:
    """Channels with six photos of a class to train on, and three to validate and test: seconds instead of a minute."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 6), ("valid", 3), ("test", 3)):
        for of_class in (photos / split).iterdir():
            (folder / split / of_class.name).mkdir(parents=True)
            for path in sorted(of_class.iterdir())[:count]:
                shutil.copy(path, folder / split / of_class.name)
    return {split.name: split for split in folder.iterdir()}


@pytest.fixture
def root(sdk, tmp_path_factory) -> Path:
    """A directory for local mode to write below. No container of it may outlive the test."""
    path = tmp_path_factory.mktemp("local-mode")
    yield path
    assert sdk.remove_containers(path) == []
