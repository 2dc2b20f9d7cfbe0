import subprocess
import sys
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
from tests.support.server import ROOT


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


@pytest.mark.parametrize(
    ("device", "given", "largest"), [("cpu", None, 8), ("cuda:1", None, 32), ("cpu", 3, 3), ("cuda:1", 3, 3)]
)
def test_the_largest_batch_is_the_device_s_unless_one_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, given: int | None, largest: int
):
    artifacts.save(tmp_path)
    engine = Recording()
    kind = engines.Kind(load=engine.load, devices=("cpu", "cuda"), needs="numpy", exported=False)
    monkeypatch.setitem(engines.PREFERENCE, "recording", kind)
    job = Assignment(process=0, model_dir=tmp_path, device=device, threads=1)
    predictor = model_process.load(job, ServeConfig(engine="recording", max_batch=given))
    assert predictor.max_batch == max(size for size in engine.done if isinstance(size, int)) == largest


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


BREAKS = """
import sys, time, weakref
from pathlib import Path
import numpy as np
from containers.core import manifest
from containers.serve import engines, model_process
from containers.serve.config import ServeConfig
from containers.serve.health import Health
from containers.serve.slots import Slots, State

model_dir = Path(sys.argv[1])
facts = manifest.read(model_dir)
golden = np.asarray(facts.golden.probabilities, np.float32)
slots, health = Slots(1, facts.preprocessing.shape, len(golden)), Health(1)
destroyed = []

class Engine:
    def __call__(self, batch):
        if health.is_ready(0):
            raise RuntimeError("CUDA error: device-side assert triggered")
        return np.tile(golden, (len(batch), 1))

    def __del__(self):
        destroyed.append(self)

def load(model_dir, facts, name, device, threads):
    return engines.LoadedEngine(name=name, device=device, tolerance=0.1, run=Engine())

engines.PREFERENCE["breaks"] = engines.Kind(load=load, devices=("cpu",), needs="numpy", exported=False)
slots.submit(0, time.monotonic() + 1000)
job = model_process.Assignment(process=0, model_dir=model_dir, device="cpu", threads=1)
code = model_process.run(job, ServeConfig(engine="breaks"), slots, health)
assert slots.state(0) == State.FAILED
assert not destroyed
sys.exit(code)
"""


def test_a_broken_device_ends_the_process_and_nothing_that_is_on_it_is_destroyed_before(tmp_path: Path):
    artifacts.save(tmp_path)
    done = subprocess.run([sys.executable, "-c", BREAKS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == model_process.EXIT_POISONED, done.stderr
