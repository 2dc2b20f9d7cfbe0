"""Ways of running the artifact's model. One file each; `PREFERENCE` is their order, fastest first.

An engine is a callable: uint8 (N, crop, crop, 3) → float32 probabilities (N, classes), each row summing to 1. Normalisation,
softmax and calibration are inside. It is built once per model process and called from one thread. One that runs faster on sizes
it knows beforehand says so in `record`.

Its `load` verifies all files of the artifact (`verified`, `artifact.load`) before it reads the first: nobody does it again.

To add one: a file with `load(model_dir, manifest, …)` here, a row in `PREFERENCE`, and its exporter in `train.export`.
This module imports neither torch nor OpenVINO: a process loads only what its engine needs.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from containers.core import manifest as manifests
from containers.core import preprocessing
from containers.core.errors import ArtifactError, ConfigError
from containers.core.host import host_shows_gpu
from containers.core.manifest import GOLDEN_FILE, Manifest

Engine = Callable[[np.ndarray], np.ndarray]

Shape = tuple[int, int, int]
"""Height, width, 3."""


def _nothing_recorded(shape: Shape, sizes: Sequence[int]) -> tuple[int, ...]:
    return ()


def nothing_late(error: RuntimeError) -> RuntimeError | None:
    """Of a device that reports every error at once: a CPU."""
    return None


@dataclass(frozen=True, kw_only=True)
class LoadedEngine:
    """`tolerance` bounds the difference from the golden probabilities that training recorded. Call it like an `Engine`.

    `record(shape, sizes)` is called once, after the warm-up, with the shape of a photo and the batch sizes there will be; it
    returns those that it has prepared for. `reported_late(error)` says what is wrong with the device since before `error`,
    which a call of the engine has raised, without waiting for the device. None: nothing is known to be.
    """

    name: str
    device: str
    tolerance: float
    run: Engine
    record: Callable[[Shape, Sequence[int]], tuple[int, ...]] = _nothing_recorded
    reported_late: Callable[[RuntimeError], RuntimeError | None] = nothing_late

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.run(batch)


def _eager(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> LoadedEngine:
    from containers.serve.engines import eager

    return eager.load(model_dir, manifest, device=device, threads=threads)


def _openvino(model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> LoadedEngine:
    from containers.serve.engines import openvino

    return openvino.load(model_dir, manifest, name=name, threads=threads)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`needs` is the package that must be installed; `exported` engines must also be listed in the manifest."""

    load: Callable[[Path, Manifest, str, str, int], LoadedEngine]
    devices: tuple[str, ...]
    needs: str
    exported: bool


PREFERENCE: dict[str, Kind] = {
    "openvino-int8": Kind(load=_openvino, devices=("cpu",), needs="openvino", exported=True),
    "openvino-fp32": Kind(load=_openvino, devices=("cpu",), needs="openvino", exported=True),
    "eager": Kind(load=_eager, devices=("cpu", "cuda"), needs="torch", exported=False),
}


def load(
    model_dir: Path, manifest: Manifest, *, requested: str = "auto", device: str = "auto", threads: int = 1
) -> LoadedEngine:
    """Load the first engine of `PREFERENCE` that the artifact and this machine offer, or the one `requested`.

    `device` is auto, cpu, cuda or cuda:N; `threads` is what one forward pass on a CPU may use.
    Raises ConfigError for an engine that is unknown or not to be had here (naming those that are), ArtifactError for
    files that training did not write, AcceleratorError for a GPU that cannot be used.
    """
    if device == "auto":
        device = "cuda" if host_shows_gpu() else "cpu"
    choices = available(manifest, device)
    if requested == "auto":
        requested = choices[0]
    if requested not in PREFERENCE:
        raise ConfigError(f"engine {requested!r} is not known (SERVE_ENGINE): use auto or one of {', '.join(PREFERENCE)}")
    if obstacle := _obstacle(requested, manifest, device):
        raise ConfigError(f"engine {requested!r} {obstacle} (SERVE_ENGINE): use auto or one of {', '.join(choices)}")
    return PREFERENCE[requested].load(model_dir, manifest, requested, device, threads)


def available(manifest: Manifest, device: str) -> list[str]:
    """Names of the engines that can run this artifact on this machine's `device` (cpu, cuda, cuda:N), fastest first."""
    return [name for name in PREFERENCE if not _obstacle(name, manifest, device)]


def _obstacle(name: str, manifest: Manifest, device: str) -> str:
    """Why an engine cannot be used, empty where it can."""
    kind = PREFERENCE[name]
    if device.partition(":")[0] not in kind.devices:
        return f"does not run on {device}"
    if kind.exported and name not in {entry.name for entry in manifest.engines}:
        return "is not in this artifact (python -m containers.train.export adds engines)"
    if importlib.util.find_spec(kind.needs) is None:
        return f"needs the package {kind.needs}, which is not installed"
    return ""


def check_golden(engine: LoadedEngine, model_dir: Path, manifest: Manifest, tolerance: float | None = None) -> float:
    """Run the golden photo; returns the largest absolute difference from the probabilities that training recorded.

    Raises ArtifactError where it exceeds `tolerance` (by default the engine's own): this engine would answer wrongly.
    """
    allowed = engine.tolerance if tolerance is None else tolerance
    spec = manifest.preprocessing
    photo = preprocessing.prepare(preprocessing.decode((model_dir / GOLDEN_FILE).read_bytes(), spec), spec)
    answer = engine(photo[None])
    expected = np.asarray(manifest.golden.probabilities, dtype=np.float32)[None]
    if answer.shape != expected.shape:
        raise ArtifactError(f"engine {engine.name} answers {answer.shape[1:]} classes, the manifest has {expected.shape[1:]}")
    difference = float(np.abs(answer - expected).max())
    if not difference <= allowed:  # also true of NaN
        raise ArtifactError(
            f"engine {engine.name} on {engine.device} answers the golden photo wrongly: off by {difference:.2g}, "
            f"allowed {allowed:.2g}; set SERVE_ENGINE to another engine or train again"
        )
    return difference


def verified(model_dir: Path, manifest: Manifest, name: str) -> tuple[Path, manifests.EngineEntry]:
    """The main file of an exported engine and its entry, once every file of the artifact has its recorded digest."""
    entry = next(entry for entry in manifest.engines if entry.name == name)
    manifests.verify(model_dir, manifest)
    return model_dir / entry.file, entry
