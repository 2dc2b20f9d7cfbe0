"""Faster forms of a trained model, written beside its weights: what `serve.engines` runs on a CPU.

    python -m containers.train.export --model-dir DIR --data DIR --engines int8

Training calls `add_engines` at its end, on rank 0. An engine is written only when it was measured to answer as eager torch
does: fp32 within EAGER_TOLERANCE on every validation photo, int8 within the gate of `quantisation`. One that fails is a
note in the log and the report, never a file. A GPU needs none of them.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn

from containers.core import artifact, host, logs, manifest, preprocessing
from containers.core.artifact import Artifact
from containers.core.errors import Error
from containers.core.manifest import EAGER_TOLERANCE, ENGINES_DIR, GOLDEN_FILE, EngineEntry, Manifest
from containers.train import photos, preflight, quantisation, splits
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from containers.train.index import DatasetIndex
from containers.train.quantisation import Labelled, Refused

log = logs.get(__name__)

MOST_VALIDATION_PHOTOS = 2000
_PREFLIGHT = {"max_bad_fraction", "bad_evaluation_photos"}
PRECISIONS: tuple[Literal["fp32"], Literal["int8"]] = ("fp32", "int8")


@dataclass(frozen=True)
class Exported:
    """`notes` says of each engine that was asked for and not written why."""

    engines: tuple[EngineEntry, ...] = ()
    notes: tuple[str, ...] = ()


def add_engines(model_dir: Path, want: str, calibration: Sequence[Path], validation: Sequence[tuple[Path, int]]) -> Exported:
    """Give the artifact in `model_dir` the engines of `want`: none, fp32, or int8 (which includes fp32).

    `calibration`: training photos in any number, of which some are used. `validation`: (photo, label); at most
    MOST_VALIDATION_PHOTOS of them, evenly spaced, are used. Engines the artifact had before are replaced.
    """
    if want == "none":
        return Exported()
    model = artifact.load(model_dir)
    seen = Labelled.decode(quantisation.evenly(validation, MOST_VALIDATION_PHOTOS), model.manifest.preprocessing)
    expected = eager(model, seen.photos)
    entries: list[EngineEntry] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kennel-export-") as scratch:
        graph = None
        for precision in PRECISIONS[: PRECISIONS.index(want) + 1]:
            file = Path(scratch) / f"openvino-{precision}.xml"
            try:
                graph = _quantise(model, graph, calibration, seen, expected) if graph else convert(model)
                ov.save_model(graph, file, compress_to_fp16=False)
                entries.append(_measured(model, file, seen, expected))
            except Refused as refusal:
                notes.append(f"{file.stem} was not written: {refusal}")
                break
            except Exception as error:  # a finished training is not lost for an engine
                log.exception("engine failed", extra={"engine": file.stem})
                notes.append(f"{file.stem} was not written: {type(error).__name__}: {error}")
                break
        names = [f"{entry.file.removesuffix('xml')}{kind}" for entry in entries for kind in ("xml", "bin")]
        files = {name: Path(scratch) / Path(name).name for name in names}
        try:
            artifact.replace_engines(model_dir, model.manifest, tuple(entries), files)
        except OSError as error:  # a finished training is not lost for a disk without room for engines either
            log.exception("engines not kept")
            notes.append(f"the engines were not kept: {error}")
            entries = []
    for entry in entries:
        log.info("engine written", extra={"engine": entry.name, **entry.model_dump(exclude={"name"})})
    for note in notes:
        log.warning("engine refused", extra={"note": note})
    return Exported(tuple(entries), tuple(notes))


class _Whole(nn.Module):
    """uint8 photos → calibrated probabilities: what an engine's graph holds."""

    def __init__(self, model: Artifact) -> None:
        super().__init__()
        self.net = model.build()
        self.spec, self.temperature = model.manifest.preprocessing, model.manifest.calibration.temperature

    def forward(self, photos: Tensor) -> Tensor:
        logits: Tensor = self.net(artifact.normalise(photos, self.spec.mean, self.spec.std))
        return (logits / self.temperature).softmax(dim=1)


def eager(model: Artifact, photos: np.ndarray) -> np.ndarray:
    """What plain torch answers on the CPU in float32: uint8 (N, crop, crop, 3) → (N, classes)."""
    whole = _Whole(model).eval()
    with torch.inference_mode():
        return np.concatenate(
            [whole(torch.from_numpy(b)).numpy() for b in quantisation.batches(np.require(photos, requirements="W"))]
        )


def convert(model: Artifact) -> ov.Model:
    """The model as an OpenVINO graph with a free batch dimension."""
    shape = model.manifest.preprocessing.shape
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch calls its tracer deprecated; OpenVINO uses it
        return ov.convert_model(_Whole(model).eval(), example_input=example, input=[-1, *shape])


def _quantise(model: Artifact, graph: ov.Model, photos: Sequence[Path], seen: Labelled, expected: np.ndarray) -> ov.Model:
    transformer = any(isinstance(module, nn.MultiheadAttention) for module in model.build().modules())
    return quantisation.quantise(graph, model.manifest.preprocessing, photos, seen, expected, transformer=transformer)


def _measured(model: Artifact, file: Path, seen: Labelled, expected: np.ndarray) -> EngineEntry:
    """The manifest's entry for the engine in `file`. Raises Refused unless it answers closely enough."""
    compiled = quantisation.compiled(file)
    answers = quantisation.run(compiled, seen.photos)
    spec, golden = model.manifest.preprocessing, model.manifest.golden
    photo = preprocessing.prepare(preprocessing.decode((model.model_dir / GOLDEN_FILE).read_bytes(), spec), spec)
    off_golden = float(np.abs(quantisation.run(compiled, photo[None])[0] - golden.probabilities).max())
    precision: Literal["fp32", "int8"]
    if file.stem.endswith("int8"):
        precision, tolerance = "int8", round(off_golden + quantisation.GOLDEN_MARGIN, 4)
        note = quantisation.judge(expected, answers, seen.labels)
    else:
        precision, tolerance = "fp32", EAGER_TOLERANCE
        worst = max(off_golden, float(np.abs(answers - expected).max()))
        if not worst <= tolerance:
            raise Refused(f"its probabilities differ from eager's by up to {worst:.2g}, allowed are {tolerance:.2g}")
        note = f"largest difference from eager {worst:.2g} on {len(seen.labels)} validation photos"
    return EngineEntry(
        name=file.stem,
        file=f"{ENGINES_DIR}{file.name}",
        precision=precision,
        tolerance=tolerance,
        accuracy=quantisation.accuracy(answers, seen.labels),
        accuracy_eager=quantisation.accuracy(expected, seen.labels),
        note=note,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m containers.train.export", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model-dir", type=Path, required=True, help="the artifact; its engines are replaced")
    parser.add_argument("--data", type=Path, required=True, help="the photos it was trained on")
    parser.add_argument("--engines", choices=PRECISIONS, default="int8", help="int8 includes fp32")
    options = parser.parse_args(arguments)
    logs.configure()
    try:
        index = _photos(options.data, manifest.read(options.model_dir))
        training = [photo.path for photo in index.splits["train"]]
        validation = [(photo.path, photo.label) for photo in index.splits["valid"]]
        exported = add_engines(options.model_dir, options.engines, training, validation)
    except Error as error:
        print(f"{error.kind}: {error}", file=sys.stderr)  # noqa: T201 - for the person who typed the command
        return error.exit_code
    return 0 if not exported.notes else 1


def _photos(data: Path, facts: Manifest) -> DatasetIndex:
    """As training saw them: the same photos in the same splits. Raises DataError where they are others.

    A validation photo among the calibration photos, or one that was trained on among those it is judged by, would make an
    engine look better than it is, and nobody would notice.
    """
    trained = TrainConfig.model_validate({key: value for key, value in facts.provenance.config.items() if key in _PREFLIGHT})
    tree = splits.find({"train": data})
    preflight.check_classes(tree)
    paths = [path for classes in tree.splits.values() for files in classes.values() for path in files]
    found = photos.inspect_all(paths, host.cores())
    index = preflight.assemble(tree, found, trained.max_bad_fraction, preflight.may_skip(trained))
    if index.class_names != facts.class_names:
        raise DataError(f"{data} holds other classes than this model knows: pass the photos it was trained on as --data")
    fingerprint = facts.provenance.dataset.get("fingerprint", index.fingerprint)
    if index.fingerprint != fingerprint:
        raise DataError(f"{data} holds other photos than this model was trained on (names, sizes or splits differ): pass those")
    return index


if __name__ == "__main__":
    sys.exit(main())
