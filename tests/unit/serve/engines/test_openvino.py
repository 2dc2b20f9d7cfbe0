"""An engine of OpenVINO that is not what training wrote, and one that is too large for the memory there is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from containers.core import artifact
from containers.core.errors import ArtifactError
from containers.core.manifest import EngineEntry, Manifest
from containers.serve import engines
from tests.support.server import ROOT

NAME = "openvino-fp32"
ENTRY = EngineEntry(name=NAME, file=f"engines/{NAME}.xml", precision="fp32", tolerance=0.1)

LOAD = """
import resource, sys
from pathlib import Path
import numpy as np, openvino as ov
from openvino import opset13 as ops
from containers.core import manifest
from containers.serve import engines
from containers.core.errors import is_out_of_memory

directory, room = Path(sys.argv[1]), int(sys.argv[2])
one = ops.parameter([1], np.float32)
ov.Core().compile_model(ov.Model([ops.relu(one)], [one]), "CPU")  # its library is loaded from here on
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))
try:
    engines.load(directory, manifest.read(directory), requested=sys.argv[3], device="cpu")
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error), error)
else:
    print("loaded")
"""
"""Loads an engine (arguments: artifact, bytes of memory, name) where only so much memory is left."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, model_dir: Path) -> tuple[Path, Manifest]:
    directory = tmp_path_factory.mktemp("artifact")
    return directory, artifact.save(directory, {}, (model_dir / "golden.png").read_bytes(), manifest)


def test_a_model_that_does_not_fit_into_memory_is_no_fault_of_its_files(plain: tuple[Path, Manifest], tmp_path: Path):
    rows, columns = 8 * 8 * 3, 100_000  # 77 MB of weights
    photos = ops.parameter([-1, 8, 8, 3], np.uint8)
    flat = ops.reshape(ops.convert(photos, np.float32), np.array([-1, rows]), special_zero=False)
    weights = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    graph = ov.Model([ops.matmul(flat, weights, transpose_a=False, transpose_b=False)], [photos])
    ov.save_model(graph, tmp_path / f"{NAME}.xml", compress_to_fp16=False)
    files = {f"engines/{NAME}.{kind}": tmp_path / f"{NAME}.{kind}" for kind in ("xml", "bin")}
    artifact.replace_engines(*plain, (ENTRY,), files)

    def loaded(room: int) -> str:
        command = [sys.executable, "-c", LOAD, str(plain[0]), str(room), NAME]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout

    assert loaded(room=4 << 30) == "loaded\n"
    assert loaded(room=32 << 20).startswith("RuntimeError True ")


def test_a_graph_that_openvino_cannot_read_is_a_fault_of_the_artifact(plain: tuple[Path, Manifest], tmp_path: Path):
    (tmp_path / "odd.xml").write_text("<net")
    facts = artifact.replace_engines(*plain, (ENTRY,), {ENTRY.file: tmp_path / "odd.xml"})
    with pytest.raises(ArtifactError, match=f"{NAME}.xml cannot be compiled by OpenVINO"):
        engines.load(plain[0], facts, requested=NAME, device="cpu")
