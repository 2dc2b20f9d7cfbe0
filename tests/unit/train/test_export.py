"""Engines are exported from a net that was really fitted, then run as serving runs them."""

import shutil

import numpy as np
import pytest

from containers.core import artifact, manifest
from containers.core.errors import ArtifactError
from containers.serve import engines
from containers.train import export, quantisation
from tests.support import colours

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|nncf|onnx|pydot|networkx).*")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return colours.write_photos(tmp_path_factory.mktemp("photos") / "data", train=100, valid=20)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    colours.train(directory, data)
    return directory


@pytest.fixture(scope="module")
def exported(plain, data, tmp_path_factory):
    """The command's own work: fp32 and int8 added to an artifact."""
    directory = shutil.copytree(plain, tmp_path_factory.mktemp("exported") / "model")
    assert export.main(["--model-dir", str(directory), "--data", str(data)]) == 0
    return directory


@pytest.fixture(scope="module")
def valid(data):
    photos = [(path, label) for label, name in enumerate(colours.COLOURS) for path in (data / "valid" / name).iterdir()]
    return quantisation.Labelled.decode(photos, colours.SPEC)


def test_both_engines_are_in_the_artifact_with_what_was_measured(exported):
    facts = manifest.read(exported)
    manifest.verify(exported, facts)
    assert [entry.name for entry in facts.engines] == ["openvino-fp32", "openvino-int8"]
    for entry in facts.engines:
        assert entry.file in facts.files
        assert entry.file.replace(".xml", ".bin") in facts.files
        assert entry.accuracy == pytest.approx(entry.accuracy_eager, abs=1 / 60 + 1e-9)
        assert entry.accuracy_eager > 0.8
    assert 0.05 < facts.engines[1].tolerance < 0.2


def test_serving_prefers_int8_and_every_engine_answers_like_eager(exported, valid):
    facts = manifest.read(exported)
    assert engines.load(exported, facts, device="cpu").name == "openvino-int8"
    noise = np.random.default_rng(0).integers(0, 256, (7, *colours.SPEC.shape), dtype=np.uint8)
    loaded = {name: engines.load(exported, facts, requested=name, device="cpu") for name in engines.PREFERENCE}
    for engine in loaded.values():
        engines.check_golden(engine, exported, facts)
    for photos in (noise, valid.photos, valid.photos[:1]):
        expected = loaded["eager"](photos)
        answer = loaded["openvino-fp32"](photos)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, atol=1e-4)
    sure = np.abs(loaded["eager"](valid.photos) - loaded["openvino-int8"](valid.photos))
    assert sure.max() < 0.2


def test_answers_survive_the_next_batch(exported, valid):
    engine = engines.load(exported, manifest.read(exported), requested="openvino-fp32", device="cpu")
    first = engine(valid.photos[:2])
    kept = first.copy()
    engine(valid.photos[2:4])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("file", ["openvino-int8.xml", "openvino-int8.bin"])
def test_an_altered_engine_file_is_refused(exported, tmp_path, file):
    directory = shutil.copytree(exported, tmp_path / "model")
    with (directory / "engines" / file).open("r+b") as opened:
        opened.seek(20)
        opened.write(b"\xff")
    with pytest.raises(ArtifactError, match=rf"{file} is not the file that training wrote"):
        engines.load(directory, manifest.read(directory), device="cpu")


def test_a_graph_that_openvino_cannot_read_is_refused(exported, tmp_path):
    directory = shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "odd").write_text("not a graph")
    facts = manifest.read(directory)
    names = {entry.file: tmp_path / "odd" for entry in facts.engines}
    artifact.replace_engines(directory, facts, facts.engines, names)
    with pytest.raises(ArtifactError, match="cannot be compiled by OpenVINO"):
        engines.load(directory, manifest.read(directory), device="cpu")


def test_exporting_again_replaces_what_was_there(exported, data, tmp_path):
    directory = shutil.copytree(exported, tmp_path / "model")
    assert export.main(["--model-dir", str(directory), "--data", str(data), "--engines", "fp32"]) == 0
    facts = manifest.read(directory)
    manifest.verify(directory, facts)
    assert [entry.name for entry in facts.engines] == ["openvino-fp32"]
    assert sorted(path.name for path in (directory / "engines").iterdir()) == ["openvino-fp32.bin", "openvino-fp32.xml"]
