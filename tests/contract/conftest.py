from pathlib import Path

import pytest

from tests.support import artifacts


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model directory, as training writes it."""
    directory = tmp_path_factory.mktemp("model")
    artifacts.save(directory)
    return directory
