from pathlib import Path

import pytest

from containers.train.index import DatasetIndex
from tests.support import training


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 photos of two classes, a folder each: preflight takes 8 of them for validation and 8 for the test."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(48):
        training.photo(root / f"class{number % 2}" / f"{number:03}.jpg", number % 2, number, size=(96, 80))
    return root


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """40 training, 16 validation and 2 test photos of two classes."""
    return training.make_index(tmp_path_factory.mktemp("index"), train=40, valid=16, test=2)


def pytest_terminal_summary(terminalreporter):
    """What tests measured on the way."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name} {value}")
