import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import subject
from containers.core import manifest, preprocessing
from containers.core.manifest import HALF_TOLERANCE
from containers.serve import engines
from tests.support import artifacts
from tests.support.artifacts import photo

_BFLOAT16 = 0.06
"""Of the ResNet-50 below, whose features are random and whose head is steep: 0.049 was measured on an H100, 0.041 in bfloat16
on a CPU (0.003 in float16). What the server itself promises is the golden photo's HALF_TOLERANCE."""


class Subject:
    """A model directory, photos, and what plain torch answers to them on the CPU in float32.

    `pixels` is what the model is fed of the photos: uint8 (N, crop, crop, 3). `tolerance`: how far half precision may be off.
    """

    def __init__(self, model_dir: Path, photos: list[bytes], tolerance: float = HALF_TOLERANCE) -> None:
        self.model_dir, self.photos, self.tolerance = model_dir, photos, tolerance
        self.facts = manifest.read(model_dir)
        self.pixels = np.stack([preprocessing.preprocess(body, self.facts.preprocessing) for body in photos])
        plain = engines.load(model_dir, self.facts, requested="eager", device="cpu", threads=4)
        self.expected = plain(self.pixels)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A tiny net."""
    directory = tmp_path_factory.mktemp("small")
    artifacts.save(directory)
    return Subject(directory, [photo(seed, format="JPEG") for seed in range(12)])


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A ResNet-50 that tells the example photos' classes apart, made by the first of several test processes that needs it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    with (shared / "resnet.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = subject.prepare(shared / "resnet", exported=False)
    photos = [path.read_bytes() for path in sorted((directory / "photos").iterdir())]
    return Subject(directory / "model", photos, _BFLOAT16)


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(64) as executor:
        yield executor
