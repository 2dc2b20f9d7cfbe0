"""An int8 engine that the repo's own export made and accepted, behind a real server that chooses its engine itself."""

from pathlib import Path

import numpy as np
import pytest

from containers.core import manifest
from containers.train import export
from tests.support import colours
from tests.support.server import serving


@pytest.fixture(scope="module")
def colourful(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model with both engines, and the photos it was made with."""
    root = tmp_path_factory.mktemp("int8")
    data = colours.write_photos(
        root / "photos", train=120, valid=20
    )  # 15 % of train becomes test: 306 photos to calibrate with
    colours.train(root / "model", data)
    assert export.main(["--model-dir", str(root / "model"), "--data", str(data)]) == 0
    return root / "model", data


@pytest.mark.slow
def test_the_int8_engine_is_chosen_and_answers_as_the_artifact_promises(colourful, tmp_path):
    model_dir, data = colourful
    facts = manifest.read(model_dir)
    (entry,) = [engine for engine in facts.engines if engine.name == "openvino-int8"]
    with serving(model_dir, tmp_path / "log", engine="auto", fronts=1) as server:
        assert server.await_event("model loaded")["engine"] == "openvino-int8"
        golden = server.invoke((model_dir / manifest.GOLDEN_FILE).read_bytes(), "image/png").json()["predictions"][0]
        served = [golden["probabilities"][name] for name in facts.class_names]
        assert np.abs(np.subtract(served, facts.golden.probabilities)).max() <= entry.tolerance
        photos = [(name, path) for name in facts.class_names for path in sorted((data / "valid" / name).iterdir())]
        answers = [server.invoke(path.read_bytes(), "image/png").json()["predictions"][0]["class"] for _, path in photos]
    assert (
        np.mean([answer == name for (name, _), answer in zip(photos, answers, strict=True)]) >= entry.accuracy - 1 / 60 - 1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino-fp32", "eager"])
def test_another_engine_is_served_where_it_is_asked_for(colourful, tmp_path, engine: str):
    model_dir, _ = colourful
    facts = manifest.read(model_dir)
    with serving(model_dir, tmp_path / "log", engine=engine, fronts=1) as server:
        assert server.await_event("model loaded")["engine"] == engine
        golden = server.invoke((model_dir / manifest.GOLDEN_FILE).read_bytes(), "image/png").json()["predictions"][0]
    served = [golden["probabilities"][name] for name in facts.class_names]
    assert np.abs(np.subtract(served, facts.golden.probabilities)).max() <= manifest.EAGER_TOLERANCE
