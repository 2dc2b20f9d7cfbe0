"""A model directory as training writes it: made once, copied for each test that alters it."""

import shutil

import pytest
import torch

from containers.core import architectures, artifact
from tests.support.saved import CLASSES, facts, golden_png


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return architectures.build("squeezenet1_1", len(CLASSES)).eval()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("artifact")
    engine = directory / "made-elsewhere.bin"
    engine.write_bytes(b"engine")
    written = artifact.save(directory / "model", model.state_dict(), golden_png(), facts())
    artifact.replace_engines(directory / "model", written, (), {"engines/fast/model.bin": engine})
    return directory / "model"


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"
