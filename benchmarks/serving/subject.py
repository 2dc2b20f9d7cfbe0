"""The model and the photos that every side gets: a ResNet-50 artifact with its engines, JPEGs of 500×375 and of 12 megapixels.

The backbone is random with batch norms adapted to the photos and weak residual branches (a chaotic net would magnify every
rounding); the head is the least-squares fit on its features: right answers without hours of training. Its photos are
variations of those in examples/photos. The int8 engine is there only if the exporter's own gate accepted it.

On a GPU nothing is exported: what `containers.train.export` needs (OpenVINO, NNCF) may be absent there.
"""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from containers.core import architectures, artifact, manifest, preprocessing
from containers.core.manifest import Golden, Manifest, Provenance

EXAMPLES = Path("examples/photos")
_PHOTO_BYTES = 55_000  # the median of a set of 127 dog photos of 500 pixels


def prepare(directory: Path, architecture: str = "resnet50", *, exported: bool = True) -> Path:
    """Make DIRECTORY/model, DIRECTORY/photos and DIRECTORY/large, once. Returns DIRECTORY.

    Without `exported` the model has no engine but eager, and there are no large photos.
    """
    if (directory / "done").exists():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    for split, copies in (("train", 6 if exported else 2), ("valid", 3 if exported else 1)):
        for label in sorted(EXAMPLES.joinpath(split).iterdir()):
            (directory / "data" / split / label.name).mkdir(parents=True)
            for index, data in enumerate(_variations(label, copies, seed=len(split))):
                (directory / "data" / split / label.name / f"{index:04}.jpg").write_bytes(data)
    model_dir = directory / "model"
    _train(model_dir, directory / "data" / "train", architecture)
    pairs = {split: _labelled(directory / "data" / split) for split in ("train", "valid")}
    if exported:
        from containers.train import export

        export.add_engines(model_dir, "int8", [path for path, _ in pairs["train"]], pairs["valid"])
    for name, size, count in (("photos", (500, 375), 32), ("large", (4000, 3000), 8))[: 2 if exported else 1]:
        (directory / name).mkdir()
        for index, (path, _) in enumerate(pairs["valid"][:: len(pairs["valid"]) // count][:count]):
            (directory / name / f"{index:02}.jpg").write_bytes(_sized(path, size))
    (directory / "done").touch()
    return directory


def _labelled(split: Path) -> list[tuple[Path, int]]:
    return [(path, label) for label, folder in enumerate(sorted(split.iterdir())) for path in sorted(folder.iterdir())]


def _variations(folder: Path, copies: int, seed: int) -> Iterator[bytes]:
    """Crops of other sizes and places, mirrored and brighter or darker, of every photo in `folder`."""
    rng = np.random.default_rng(seed)
    for path in sorted(folder.iterdir()):
        image = preprocessing.decode(path.read_bytes())
        for _ in range(copies):
            side = rng.uniform(0.6, 1.0) * min(image.size)
            left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
            view = image.resize((320, 320), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
            view = ImageOps.mirror(view) if rng.random() < 0.5 else view
            yield _jpeg(view.point([min(255, int(v * scale)) for scale in rng.uniform(0.7, 1.3, 3) for v in range(256)]), 90)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _sized(path: Path, size: tuple[int, int]) -> bytes:
    """A JPEG of `size`; the small ones as near to _PHOTO_BYTES as the quality setting allows."""
    image = preprocessing.decode(path.read_bytes()).resize(size, Image.Resampling.BICUBIC)
    if size[0] > 1000:
        grain = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 1))
        return _jpeg(Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)), 90)
    return min((_jpeg(image, quality) for quality in range(30, 100, 3)), key=lambda data: abs(len(data) - _PHOTO_BYTES))


def _train(model_dir: Path, photos: Path, architecture: str) -> Manifest:
    torch.manual_seed(0)
    spec = architectures.lookup(architecture).preprocessing
    names = tuple(sorted(folder.name for folder in photos.iterdir()))
    pairs = _labelled(photos)[::2]
    decoded = [preprocessing.prepare(preprocessing.decode(path.read_bytes(), spec), spec) for path, _ in pairs]
    inputs = artifact.normalise(torch.from_numpy(np.stack(decoded)), spec.mean, spec.std)
    targets = torch.nn.functional.one_hot(torch.tensor([label for _, label in pairs])).float() - 1 / len(names)
    model = architectures.build(architecture, len(names))
    backbone = architectures.without_head(architectures.build(architecture, len(names)), architecture)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(0.2)
        for batch in torch.split(inputs, 16):
            backbone.train()(batch)
        backbone.eval()
        features = torch.cat([backbone(batch) for batch in torch.split(inputs, 16)])
        centred = features - features.mean(0)
        ridge = 1e-1 * centred.square().sum(0).mean() * torch.eye(features.shape[1])
        weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ targets).T * 4
        model.load_state_dict(backbone.state_dict(), strict=False)
        head = architectures.head(model, architecture)
        head.weight.copy_(weight)  # type: ignore[operator]
        head.bias.copy_(-weight @ features.mean(0))  # type: ignore[operator]
    golden = _png(pairs[0][0])
    photo = preprocessing.prepare(preprocessing.decode(golden, spec), spec)
    facts = Manifest(
        architecture=architecture,
        class_names=names,
        preprocessing=spec,
        golden=Golden(probabilities=(0.5,) * len(names)),
        provenance=Provenance(created="benchmark", kennel_version="benchmark", torch_version=torch.__version__),
        files={},
    )
    with torch.inference_mode():
        logits = model.eval()(artifact.normalise(torch.from_numpy(photo[None].copy()), spec.mean, spec.std))
    facts = facts.model_copy(update={"golden": Golden(probabilities=tuple(logits.softmax(1)[0].tolist()))})
    return artifact.save(model_dir, model.state_dict(), golden, facts)


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    preprocessing.decode(path.read_bytes()).save(buffer, "PNG")
    return buffer.getvalue()


def engine_names(directory: Path) -> list[str]:
    return [entry.name for entry in manifest.read(directory / "model").engines]
