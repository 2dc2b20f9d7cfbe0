import subprocess
import sys

import numpy as np
import pytest

from containers.core.errors import ArtifactError, ConfigError
from containers.core.manifest import EngineEntry
from containers.serve import engines


def test_a_plain_artifact_is_served_by_eager(model_dir, manifest, photos):
    engine = engines.load(model_dir, manifest, device="cpu")
    answer = engine(photos)
    assert engine.name == "eager"
    assert answer.dtype == np.float32
    assert answer.shape == (5, 3)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_the_golden_photo_is_answered_as_training_did(model_dir, manifest):
    assert engines.check_golden(engines.load(model_dir, manifest, device="cpu"), model_dir, manifest) < 1e-5


@pytest.mark.parametrize("answer", [[[0.2, 0.3, 0.5]], [[float("nan")] * 3]])
def test_a_wrong_golden_answer_is_refused(model_dir, manifest, answer):
    wrong = engines.LoadedEngine(name="odd", device="cpu", tolerance=1e-4, run=lambda batch: np.asarray(answer, np.float32))
    with pytest.raises(ArtifactError, match="odd on cpu answers the golden photo wrongly"):
        engines.check_golden(wrong, model_dir, manifest)


def test_a_golden_answer_of_other_classes_is_refused(model_dir, manifest):
    wrong = engines.LoadedEngine(name="odd", device="cpu", tolerance=1.0, run=lambda batch: np.ones((1, 4), np.float32))
    with pytest.raises(ArtifactError, match="classes"):
        engines.check_golden(wrong, model_dir, manifest)


def test_an_unknown_engine_names_the_choices(model_dir, manifest):
    with pytest.raises(ConfigError, match=r"'tensorrt' is not known \(SERVE_ENGINE\).*openvino-int8, openvino-fp32, eager"):
        engines.load(model_dir, manifest, requested="tensorrt", device="cpu")


def test_an_engine_the_artifact_lacks_cannot_be_forced(model_dir, manifest):
    with pytest.raises(ConfigError, match=r"'openvino-int8' is not in this artifact.*one of eager$"):
        engines.load(model_dir, manifest, requested="openvino-int8", device="cpu")


def test_preference_follows_artifact_and_device(manifest):
    entries = [EngineEntry(name=f"openvino-{p}", file=f"engines/{p}.xml", precision=p, tolerance=0.1) for p in ("fp32", "int8")]
    rich = manifest.model_copy(update={"engines": tuple(entries)})
    assert engines.available(rich, "cpu") == ["openvino-int8", "openvino-fp32", "eager"]
    assert engines.available(rich, "cuda:1") == ["eager"]
    assert engines.available(manifest, "cpu") == ["eager"]


def test_choosing_an_engine_needs_no_torch():
    code = "import sys; import containers.serve.engines; sys.exit('torch' in sys.modules or 'openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
