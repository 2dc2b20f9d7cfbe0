"""Save and load the model directory that `manifest` describes. What training writes is what serving reads."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from containers.core import architectures, manifest
from containers.core.errors import ArtifactError
from containers.core.manifest import ENGINES_DIR, GOLDEN_FILE, MANIFEST_FILE, REPORT_DIR, WEIGHTS_FILE, EngineEntry, Manifest

_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Artifact:
    model_dir: Path
    manifest: Manifest
    state_dict: dict[str, Tensor]

    def build(self) -> nn.Module:
        """The model with its weights, in eval mode, on the CPU: float (N, 3, crop, crop), normalised → logits (N, classes)."""
        model = architectures.build(self.manifest.architecture, len(self.manifest.class_names), empty=True)
        try:
            model.load_state_dict(self.state_dict, strict=True, assign=True)
        except RuntimeError as error:
            raise ArtifactError(
                f"{self.model_dir / WEIGHTS_FILE} does not fit {self.manifest.architecture}: {error}"
            ) from error
        return model.eval()


def save(model_dir: Path, state_dict: Mapping[str, Tensor], golden_png: bytes, facts: Manifest) -> Manifest:
    """Write the model directory; returns the manifest as written, with the digest of every file.

    `facts.files` is ignored and computed. Engines and a report that are there are of other weights, and go.
    The manifest is written last and by rename: a directory with a manifest is complete. Raises OSError where the disk refuses;
    the directory then has no manifest, and no half-written weights that would take up room.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / MANIFEST_FILE).unlink(missing_ok=True)
    for other in (ENGINES_DIR, REPORT_DIR):
        shutil.rmtree(model_dir / other, ignore_errors=True)
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}, model_dir / WEIGHTS_FILE)
    except SafetensorError as error:
        (model_dir / WEIGHTS_FILE).unlink(missing_ok=True)
        raise OSError(f"{WEIGHTS_FILE}: {error}") from error
    (model_dir / WEIGHTS_FILE).chmod(0o644)  # safetensors makes 0600, and the server may be another user than training
    (model_dir / GOLDEN_FILE).write_bytes(golden_png)
    return _commit(model_dir, facts, {name: manifest.sha256(model_dir / name) for name in (WEIGHTS_FILE, GOLDEN_FILE)})


def replace_engines(model_dir: Path, facts: Manifest, engines: tuple[EngineEntry, ...], files: Mapping[str, Path]) -> Manifest:
    """Give a written model directory these engines instead of those it has; returns the manifest as written.

    `files` maps a name in the directory to a file to copy there. Whenever it is interrupted, what the manifest lists is whole.
    Raises OSError where the disk refuses; the model then has no engines, or still those it had.
    """
    old = {name for name in facts.files if name.startswith(ENGINES_DIR)}
    kept = {name: digest for name, digest in facts.files.items() if name not in old}
    if old:
        _commit(model_dir, facts.model_copy(update={"engines": ()}), kept)
        for name in old:
            (model_dir / name).unlink(missing_ok=True)
    try:
        new = {name: manifest.sha256(model_dir / name) for name in _copy(model_dir, files)}
        return _commit(model_dir, facts.model_copy(update={"engines": engines}), kept | new)
    except OSError:
        for name in files:
            (model_dir / name).unlink(missing_ok=True)
        raise


def _copy(model_dir: Path, files: Mapping[str, Path]) -> list[str]:
    for name, source in files.items():
        (model_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, model_dir / name)
    return list(files)


def _commit(model_dir: Path, facts: Manifest, digests: dict[str, str]) -> Manifest:
    written = facts.model_copy(update={"files": digests})
    temporary = model_dir / f".{MANIFEST_FILE}.tmp"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(written.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(model_dir / MANIFEST_FILE)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return written


def load(model_dir: Path) -> Artifact:
    """Read and verify a model directory. Raises ArtifactError."""
    facts = manifest.read(model_dir)
    manifest.verify(model_dir, facts)
    try:
        state = load_file(model_dir / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{model_dir / WEIGHTS_FILE} cannot be read ({error}): copy the model directory again") from error
    return Artifact(model_dir, facts, state)


def normalise(batch: Tensor, mean: _Triple, std: _Triple, *, repeat: int = 1) -> Tensor:
    """uint8 (N, H, W, 3) as `preprocessing.prepare` makes it → float (N, 3, H, W), channels_last in memory.

    `repeat`: how often mean and std are laid side by side, 1 or W. The numbers are the same; with W a CPU is four times as
    fast, and with 1 the constants of an exported graph stay three numbers.
    """
    return normalise_by(batch, *constants(mean, std, batch.device, repeat=repeat))


def constants(mean: _Triple, std: _Triple, device: torch.device, *, repeat: int = 1) -> tuple[Tensor, Tensor]:
    """What `normalise_by` subtracts and divides by, on `device`: for work that may not copy from the host (CUDA graphs)."""
    shape = (1, 1, repeat, 3)  # non_blocking: a plain copy would wait for the GPU, at every step
    centre = torch.tensor(mean).mul(255).repeat(repeat).view(shape).to(device, non_blocking=True)
    return centre, torch.tensor(std).mul(255).repeat(repeat).view(shape).to(device, non_blocking=True)


def normalise_by(batch: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """`normalise` with its `constants`."""
    return batch.float().sub_(centre).div_(scale).permute(0, 3, 1, 2)
