"""int8 by post-training quantisation, and the gate it must pass (docs/decisions: why the gate).

NNCF quantises every layer it can, then puts back to float those that hurt most until our gate is content. The gate: on the
validation photos, accuracy falls by at most 0.5 points; with fewer than 1,000 photos, where half a point is a handful of
photos or less, also no answer changes of which the fp32 model was sure by more than 0.1.
"""

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import openvino as ov
import openvino.properties.hint as hints

from containers.core import preprocessing
from containers.core.errors import Error
from containers.core.preprocessing import PreprocessSpec

CALIBRATION_PHOTOS = 300
FEW_PHOTOS = 1000
SURE_MARGIN = 0.1
GOLDEN_MARGIN = 0.05
"""Added to the measured golden difference: a CPU without int8 dot products rounds differently."""
MOST_RESTORED_LAYERS = 20
RANKING_PHOTOS = 100
"""On how many validation photos, those that int8 changed most, each layer's harm is measured: once per layer."""
_TIE_BREAK = 1e-4
_BATCH = 16

T = TypeVar("T")


class Refused(Error):
    """The engine is not to be written; the message says why."""


@dataclass(frozen=True)
class Labelled:
    """`photos` uint8 (N, crop, crop, 3), `labels` int (N,)."""

    photos: np.ndarray
    labels: np.ndarray

    @classmethod
    def decode(cls, pairs: Sequence[tuple[Path, int]], spec: PreprocessSpec) -> Self:
        return cls(decoded([path for path, _ in pairs], spec), np.array([label for _, label in pairs]))


def decoded(paths: Sequence[Path], spec: PreprocessSpec) -> np.ndarray:
    """uint8 (N, crop, crop, 3), as serving makes them."""

    def one(path: Path) -> np.ndarray:
        return preprocessing.preprocess(path.read_bytes(), spec)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, paths)))


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of `items`, evenly spaced: of a list sorted by class, some of every class."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def batches(photos: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(photos), _BATCH):
        yield photos[start : start + _BATCH]


def compiled(file: Path) -> ov.CompiledModel:
    return ov.Core().compile_model(file, "CPU", {hints.inference_precision(): ov.Type.f32})


def run(model: ov.CompiledModel, photos: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes)."""
    return np.concatenate([model([batch])[0].copy() for batch in batches(photos)])


def accuracy(answers: np.ndarray, labels: np.ndarray) -> float:
    return float((answers.argmax(axis=1) == labels).mean())


def judge(expected: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> str:
    """What was measured, in words. Raises Refused with the same words when `answers` must not be served."""
    flips, lost = _sure_flips(expected, answers), _photos_lost(expected, answers, labels)
    words = (
        f"on {len(labels)} validation photos accuracy went from {accuracy(expected, labels):.4f} to "
        f"{accuracy(answers, labels):.4f}, {flips} answers changed of which fp32 was sure by more than {SURE_MARGIN}"
    )
    if excess(expected, answers, labels):
        allowed = f"{_may_lose(len(labels))} photos may be lost" + (" and no sure answer may change" * _few(labels))
        raise Refused(f"{words}; {lost} photos were lost net, {allowed}")
    return words


def excess(expected: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> int:
    """By how many photos `answers` misses the gate; 0 passes."""
    over = max(0, _photos_lost(expected, answers, labels) - _may_lose(len(labels)))
    return over + (_sure_flips(expected, answers) if _few(labels) else 0)


def _few(labels: np.ndarray) -> bool:
    return len(labels) < FEW_PHOTOS


def _may_lose(photos: int) -> int:
    """0.5 points in whole photos; one photo where that would be none."""
    return max(photos // 200, 1)


def _photos_lost(expected: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> int:
    return int((expected.argmax(axis=1) == labels).sum() - (answers.argmax(axis=1) == labels).sum())


def _sure_flips(expected: np.ndarray, answers: np.ndarray) -> int:
    ranked = np.sort(expected, axis=1)
    sure = ranked[:, -1] - ranked[:, -2] > SURE_MARGIN
    return int((sure & (expected.argmax(axis=1) != answers.argmax(axis=1))).sum())


def quantise(
    graph: ov.Model,
    spec: PreprocessSpec,
    calibration: Sequence[Path],
    seen: Labelled,
    expected: np.ndarray,
    *,
    transformer: bool,
) -> ov.Model:
    """int8 form of `graph`, as near to the gate as NNCF brings it. Raises Refused with too few photos to calibrate on."""
    if len(calibration) < CALIBRATION_PHOTOS:
        raise Refused(f"calibration needs at least {CALIBRATION_PHOTOS} training photos, there are {len(calibration)}")
    with _nncf_on_stderr() as nncf:
        photos = decoded(evenly(calibration, CALIBRATION_PHOTOS), spec)

        def validate(model: ov.CompiledModel, indices: Iterable[int]) -> tuple[float, list[float]]:
            """NNCF's metric, higher is better: 0 passes the gate; differences of probabilities break ties."""
            which = np.fromiter(indices, dtype=int)
            answers = run(model, seen.photos[which])
            off = np.abs(answers - expected[which]).max(axis=1)
            missed = excess(expected[which], answers, seen.labels[which]) / len(which)
            return -missed - _TIE_BREAK * float(off.mean()), (-off).tolist()

        return nncf.quantize_with_accuracy_control(
            graph,
            calibration_dataset=nncf.Dataset([photo[None] for photo in photos]),
            validation_dataset=nncf.Dataset(list(range(len(seen.labels)))),
            validation_fn=validate,
            max_drop=_TIE_BREAK,
            subset_size=CALIBRATION_PHOTOS,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=MOST_RESTORED_LAYERS, ranking_subset_size=RANKING_PHOTOS
            ),
        )


@contextlib.contextmanager
def _nncf_on_stderr() -> Iterator[Any]:
    """Imports NNCF (seconds, hence here) and keeps it off stdout, which is for JSON lines."""
    with contextlib.redirect_stdout(sys.stderr):
        import nncf

        logger = logging.getLogger("nncf")
        logger.handlers.clear()
        logger.propagate = True
        yield nncf
