"""What a model directory of the tests of manifest and artifact says about itself."""

import io
import json

from PIL import Image

from containers.core.manifest import Golden, Manifest, Provenance
from containers.core.preprocessing import PreprocessSpec

CLASSES = ("Käfer", "dog / cat", "z")


def facts(**changes):
    base = {
        "architecture": "squeezenet1_1",
        "class_names": CLASSES,
        "preprocessing": PreprocessSpec(resize=72, crop=64),
        "metrics": {"valid_loss": 0.25},
        "golden": Golden(probabilities=(0.2, 0.3, 0.5)),
        "provenance": Provenance(created="2026-11-22T00:00:00Z", kennel_version="0.1.0", torch_version="2.10.0"),
        "files": {},
    }
    return Manifest.model_validate(base | changes)


def golden_png():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def rewrite(model_dir, change):
    path = model_dir / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
