"""The whole agreement at once: what `python -m containers.train` writes, `python -m containers.serve` answers with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from containers.core import manifest
from tests.support import server
from tests.support.artifacts import photo

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job")
    for label, name in enumerate(CLASSES):
        (root / "photos" / name).mkdir(parents=True)
        for number in range(8):
            (root / "photos" / name / f"{number}.png").write_bytes(photo(seed=100 * label + number))
    command = [sys.executable, "-m", "containers.train", "--data", root / "photos", "--model-dir", root / "model"]
    command += ["--output-dir", root / "output", "--checkpoint-dir", root / "checkpoints"]
    command += ["--architecture", "mobilenet_v3_small", "--pretrained", "none", "--head-epochs", "0", "--epochs", "1"]
    command += ["--engines", "fp32"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=server.ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "model"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "openvino-fp32"])
def test_served_probabilities_are_trainings_golden_ones(model_dir: Path, tmp_path: Path, engine: str) -> None:
    facts = manifest.read(model_dir)
    assert facts.class_names == CLASSES
    with server.serving(model_dir, tmp_path / "log", engine=engine, fronts=1) as running:
        answer = running.invoke((model_dir / manifest.GOLDEN_FILE).read_bytes(), "image/png")
    assert answer.status_code == 200, answer.text
    served = json.loads(answer.text)["predictions"][0]["probabilities"]
    assert list(served) == list(CLASSES)
    assert list(served.values()) == pytest.approx(facts.golden.probabilities, abs=manifest.EAGER_TOLERANCE)
