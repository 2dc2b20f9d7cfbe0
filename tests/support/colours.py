"""A task that a head on random features solves: what colour is this noisy photo? For tests that need right answers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from containers.core import architectures, artifact, preprocessing
from containers.core.manifest import Calibration, Golden, Manifest, Provenance
from containers.core.preprocessing import PreprocessSpec

SPEC = PreprocessSpec(resize=36, crop=32)
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_photos(data: Path, *, train: int, valid: int, spread: float = 40.0) -> Path:
    """`train` and `valid` photos per class as DATA/SPLIT/CLASS/*.png; a larger `spread` makes the task harder."""
    rng = np.random.default_rng(5)
    for split, count in (("train", train), ("valid", valid)):
        for name, colour in COLOURS.items():
            (data / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.normal(colour, spread, (3,)) + rng.normal(0, 30, (40, 44, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data / split / name / f"{index:04}.png")
    return data


def train(model_dir: Path, data: Path, *, architecture: str = "resnet18", temperature: float = 0.7) -> Manifest:
    """Write an artifact whose batch norms have seen the training photos and whose head is their least-squares fit."""
    torch.manual_seed(0)
    names = tuple(COLOURS)
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((data / "train" / name).iterdir())][::2]
    photos = np.stack([preprocessing.prepare(preprocessing.decode(path.read_bytes(), SPEC), SPEC) for path, _ in paths])
    inputs = artifact.normalise(torch.from_numpy(photos), SPEC.mean, SPEC.std)
    targets = torch.nn.functional.one_hot(torch.tensor([label for _, label in paths])).float()
    model = architectures.build(architecture, len(names))
    backbone = architectures.without_head(architectures.build(architecture, len(names)), architecture)
    with torch.no_grad():
        for _ in range(3):
            backbone.train()(inputs)
        features = backbone.eval()(inputs)
        centred = features - features.mean(0)
        gram = centred.T @ centred + 1e-2 * centred.square().sum(0).mean() * torch.eye(features.shape[1])
        weight = torch.linalg.solve(gram, centred.T @ (targets - 1 / len(names))).T * 3
        model.load_state_dict(backbone.state_dict(), strict=False)
        head = architectures.head(model, architecture)
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ features.mean(0))
        probabilities = (model.eval()(inputs[:1]) / temperature).softmax(1)[0].tolist()
    facts = Manifest(
        architecture=architecture,
        class_names=names,
        preprocessing=SPEC,
        calibration=Calibration(temperature=temperature),
        golden=Golden(probabilities=tuple(probabilities)),
        provenance=Provenance(created="2026-01-01T00:00:00Z", kennel_version="0", torch_version=torch.__version__),
        files={},
    )
    return artifact.save(model_dir, model.state_dict(), paths[0][0].read_bytes(), facts)
