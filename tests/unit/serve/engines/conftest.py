import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from containers.core import architectures, artifact
from containers.core.manifest import Calibration, Golden, Manifest, Provenance
from containers.core.preprocessing import PreprocessSpec, decode, prepare

SPEC = PreprocessSpec(resize=72, crop=64)
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="session")
def photos() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, *SPEC.shape), dtype=np.uint8)


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A small model with a temperature that is not 1, so that an engine which forgets it is seen."""
    torch.manual_seed(3)
    directory = tmp_path_factory.mktemp("model")
    net = architectures.build("squeezenet1_1", len(CLASSES)).eval()
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(file, "PNG")
    photo = prepare(decode(file.getvalue(), SPEC), SPEC)
    with torch.inference_mode():
        logits = net(artifact.normalise(torch.from_numpy(photo[None].copy()), SPEC.mean, SPEC.std))
    facts = Manifest(
        architecture="squeezenet1_1",
        class_names=CLASSES,
        preprocessing=SPEC,
        calibration=Calibration(temperature=0.5),
        golden=Golden(probabilities=tuple((logits / 0.5).softmax(1)[0].tolist())),
        provenance=Provenance(created="2026-11-22", kennel_version="0", torch_version=torch.__version__),
        files={},
    )
    return directory, artifact.save(directory, net.state_dict(), file.getvalue(), facts)


@pytest.fixture(scope="session")
def model_dir(_written: tuple[Path, Manifest]) -> Path:
    return _written[0]


@pytest.fixture(scope="session")
def manifest(_written: tuple[Path, Manifest]) -> Manifest:
    return _written[1]
