"""Tiny model directories, as training writes them: real architecture, random weights, small photos."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from containers.core import architectures, artifact, preprocessing
from containers.core.manifest import Golden, Manifest, Provenance
from containers.core.preprocessing import PreprocessSpec

CLASSES = ("brick", "grass", "wood")


def photo(seed: int = 0, size: tuple[int, int] = (64, 48), format: str = "PNG", **options) -> bytes:
    """The bytes of a smooth random photo of `size` (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def save(
    model_dir: Path,
    *,
    architecture: str = "squeezenet1_1",
    class_names: tuple[str, ...] = CLASSES,
    resize: int = 40,
    crop: int = 32,
    seed: int = 0,
) -> Manifest:
    """Write a model directory whose golden probabilities are what eager fp32 computes. Weights are random, from `seed`."""
    spec = PreprocessSpec(resize=resize, crop=crop)
    golden = photo(seed=7)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architectures.build(architecture, len(class_names)).eval()
    pixels = torch.from_numpy(preprocessing.prepare(preprocessing.decode(golden, spec), spec).copy())[None]
    with torch.inference_mode():
        probabilities = model(artifact.normalise(pixels, spec.mean, spec.std)).softmax(1)[0].tolist()
    facts = Manifest(
        architecture=architecture,
        class_names=class_names,
        preprocessing=spec,
        golden=Golden(probabilities=tuple(probabilities)),
        provenance=Provenance(created="2026-01-01T00:00:00Z", kennel_version="0", torch_version=torch.__version__),
        files={},
    )
    return artifact.save(model_dir, model.state_dict(), golden, facts)
