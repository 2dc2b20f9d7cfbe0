"""Fixtures of the container tests: a dataset that trains in seconds, a model directory, and what a job looks like on disk."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "photos"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def channels() -> dict[str, Path]:
    """Real photos: three textures."""
    return {split: EXAMPLES / split for split in ("train", "valid", "test")}


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> dict[str, Path]:
    """A dozen photos: an epoch in a second or two."""
    from tests.support import hosts

    return hosts.few(EXAMPLES, tmp_path_factory.mktemp("few"), {"train": 4, "valid": 2, "test": 2})


@pytest.fixture(scope="session")
def photo() -> bytes:
    return (EXAMPLES / "test" / "brick" / sorted(p.name for p in (EXAMPLES / "test" / "brick").iterdir())[0]).read_bytes()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A tiny model directory as training writes it, with random weights."""
    from tests.support import artifacts

    path = tmp_path_factory.mktemp("container-model") / "model"
    artifacts.save(path)
    return path
