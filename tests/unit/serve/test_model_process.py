from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from containers.core.manifest import Manifest
from containers.serve import engines, model_process
from containers.serve.config import ServeConfig
from containers.serve.model_process import Assignment
from tests.support import artifacts


class Recording:
    """An engine that can prepare for sizes: `done` is what it was asked, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def load(self, model_dir: Path, manifest: Manifest, name: str, device: str, threads: int) -> engines.LoadedEngine:
        def run(batch: np.ndarray) -> np.ndarray:
            self.done.append(len(batch))
            return np.tile(np.asarray(manifest.golden.probabilities, np.float32), (len(batch), 1))

        def record(shape: engines.Shape, sizes: Sequence[int]) -> tuple[int, ...]:
            assert shape == manifest.preprocessing.shape
            self.done.append(("record", *sizes))
            return tuple(sizes)

        return engines.LoadedEngine(name=name, device=device, tolerance=1e-6, run=run, record=record)


@pytest.mark.parametrize(("setting", "recorded"), [("auto", [("record", 1, 2, 4, 6)]), ("off", [])])
def test_sizes_are_recorded_after_the_warm_up_and_before_the_golden_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, recorded: list
):
    artifacts.save(tmp_path)
    engine = Recording()
    kind = engines.Kind(load=engine.load, devices=("cpu",), needs="numpy", exported=False)
    monkeypatch.setitem(engines.PREFERENCE, "recording", kind)
    config = ServeConfig(engine="recording", max_batch=6, cuda_graphs=setting)
    model_process.load(Assignment(process=0, model_dir=tmp_path, device="cpu", threads=1), config)
    assert engine.done == [1, 2, 4, 6, *recorded, 1]
