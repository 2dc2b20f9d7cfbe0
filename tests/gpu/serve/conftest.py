from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import subject
from containers.core import manifest, preprocessing
from containers.serve import engines
from tests.support import artifacts


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model directory."""
    directory = tmp_path_factory.mktemp("small")
    artifacts.save(directory)
    return directory


class ResNet:
    """A ResNet-50 that tells the example photos' classes apart. `photos` are JPEGs, `pixels` what the model is fed of them
    (uint8 NHWC) and `expected` the probabilities that plain torch gives them on the CPU, in float32."""

    def __init__(self, directory: Path) -> None:
        self.model_dir = directory / "model"
        self.facts = manifest.read(self.model_dir)
        self.photos = [path.read_bytes() for path in sorted((directory / "photos").iterdir())]
        self.pixels = np.stack([preprocessing.preprocess(photo, self.facts.preprocessing) for photo in self.photos])
        plain = engines.load(self.model_dir, self.facts, requested="eager", device="cpu", threads=4)
        self.expected = plain(self.pixels)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> ResNet:
    return ResNet(subject.prepare(tmp_path_factory.mktemp("resnet"), exported=False))
