from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from containers.core import artifact, manifest
from containers.core.errors import ArtifactError
from containers.core.manifest import EngineEntry, Manifest
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


def loaded(model_dir: Path, engine: str):
    job = Assignment(process=0, model_dir=model_dir, device="cpu", threads=1)
    return model_process.load(job, ServeConfig(engine=engine, max_batch=1))


def test_each_file_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifacts.save(tmp_path)
    read, sha256 = Counter(), manifest.sha256
    monkeypatch.setattr(manifest, "sha256", lambda path: read.update([path.name]) or sha256(path))
    loaded(tmp_path, "eager")
    assert read == {"weights.safetensors": 1, "golden.png": 1}


@pytest.mark.parametrize("name", engines.PREFERENCE)
def test_every_engine_verifies_every_file_before_it_reads_one(tmp_path: Path, name: str):
    artifacts.save(tmp_path / "model")
    graph = EngineEntry(name=name, file="engines/net.xml", precision="fp32", tolerance=0.1)
    (tmp_path / "net.xml").write_text("<net")  # which nobody can read
    artifact.replace_engines(
        tmp_path / "model", manifest.read(tmp_path / "model"), (graph,), {graph.file: tmp_path / "net.xml"}
    )
    with (tmp_path / "model" / "golden.png").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"golden\.png is not the file that training wrote"):
        loaded(tmp_path / "model", name)
