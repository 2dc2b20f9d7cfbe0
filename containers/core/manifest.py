"""What a model directory says about itself. Torch-free: the serving fronts and `deploy` read it too.

    manifest.json          this page, as JSON
    weights.safetensors    the state dict
    golden.png             one tiny photo; the manifest has the probabilities training computed for it
    engines/*              optional faster forms of the same model
    report/                for people; not needed to serve

Every file that serving reads is listed in `files` with its SHA-256. No pickle is ever written or read.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from containers.core.errors import ArtifactError
from containers.core.preprocessing import PreprocessSpec

FORMAT_VERSION: Literal[1] = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_FILE = "golden.png"
ENGINES_DIR = "engines/"
REPORT_DIR = "report"
EAGER_TOLERANCE = 1e-4
HALF_TOLERANCE = 0.03
"""Allowed difference of a golden probability where a GPU computes in half precision: for the server, and for who asks it.
Chosen, not measured."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has no NaN


class Calibration(_Part):
    """Probabilities are softmax(logits / temperature)."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    note: str = "not fitted"


class Golden(_Part):
    """`probabilities[i]` is what training computed for class i on GOLDEN_FILE, with eager fp32, after calibration."""

    probabilities: tuple[float, ...]
    tolerance: Annotated[float, Field(gt=0)] = EAGER_TOLERANCE


class EngineEntry(_Part):
    """A faster form of the model: `file` (relative to the model directory) is its main file.

    `tolerance` bounds the largest absolute difference of a probability on the golden photo.
    `accuracy` and `accuracy_eager` were measured on the validation photos.
    """

    name: str
    file: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    tolerance: Annotated[float, Field(gt=0)]
    accuracy: float | None = None
    accuracy_eager: float | None = None
    note: str = ""


class Provenance(_Part):
    """Where the model came from; free of secrets and of machine paths."""

    created: str
    kennel_version: str
    torch_version: str
    pretrained: str = "none"
    dataset: dict[str, Any] = {}
    config: dict[str, Any] = {}


class Manifest(_Part):
    format_version: Literal[1] = FORMAT_VERSION
    architecture: str
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    preprocessing: PreprocessSpec
    metrics: dict[str, float] = {}
    calibration: Calibration = Calibration()
    golden: Golden
    engines: tuple[EngineEntry, ...] = ()
    provenance: Provenance
    files: dict[str, Digest]

    @model_validator(mode="after")
    def _one_probability_per_class(self) -> Self:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names holds a name twice")
        if len(self.golden.probabilities) != len(self.class_names):
            raise ValueError("golden.probabilities does not hold one number per class")
        return self


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(model_dir: Path) -> Manifest:
    """Raises ArtifactError, with a sentence of help, when `model_dir` does not hold a model of ours."""
    path = model_dir / MANIFEST_FILE
    if not os.path.isdir(model_dir):  # noqa: PTH112 - Path's raises where the name is too long, or its parent may not be read
        raise ArtifactError(f"{model_dir}: no such model directory; train one first (make demo) or pass --model-dir")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if all(entry.name.startswith(".") for entry in model_dir.iterdir()):
            raise ArtifactError(
                f"no model in {model_dir} yet: train one first (make demo), or name another directory"
            ) from None
        raise ArtifactError(f"{model_dir} holds no {MANIFEST_FILE}: it is not a model directory that Kennel wrote") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}): copy the model directory again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(f"{path} has format version {version}; this Kennel reads {FORMAT_VERSION}: use the matching image")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")
        raise ArtifactError(f"{path}: {what}: the file was altered or is not ours") from error


def verify(model_dir: Path, manifest: Manifest) -> None:
    """Raises ArtifactError naming the first file that is missing, outside the directory, a link, or altered."""
    root = model_dir.resolve()
    for name, wanted in manifest.files.items():
        path = model_dir / name
        try:
            outside = path.is_symlink() or not path.resolve().is_relative_to(root)
            missing = not path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # it holds a NUL, is too long, or leads through a circle of links
            raise ArtifactError(f"{name[:200]!r} cannot be a file of {model_dir}: copy the model directory again") from error
        if outside:
            raise ArtifactError(f"{name} in {model_dir} is a link or leads outside: refuse to read it")
        if missing:
            raise ArtifactError(f"{name} is missing from {model_dir}: copy the model directory again")
        try:
            found = sha256(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from error
        if found != wanted:
            raise ArtifactError(f"{path} is not the file that training wrote (SHA-256 differs): copy or train it again")
    for needed in (WEIGHTS_FILE, GOLDEN_FILE, *(engine.file for engine in manifest.engines)):
        if needed not in manifest.files:
            raise ArtifactError(f"{model_dir / MANIFEST_FILE} has no SHA-256 of {needed}: the file was altered or is not ours")
