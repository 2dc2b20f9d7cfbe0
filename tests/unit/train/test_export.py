"""Engines are exported from a net that was really fitted, then run as serving runs them."""

import shutil
import subprocess
import sys

import numpy as np
import openvino as ov
import pytest
import torch

from containers.core import architectures, artifact, manifest
from containers.core.artifact import Artifact
from containers.core.errors import ArtifactError
from containers.core.manifest import Golden
from containers.core.preprocessing import PreprocessSpec
from containers.serve import engines
from containers.train import export, quantisation
from tests.support import artifacts, colours
from tests.support.full_disk import files_of_at_most


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return colours.write_photos(tmp_path_factory.mktemp("photos") / "data", train=120, valid=20)  # 15 % of train becomes test


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


def test_openvino_is_served_without_torch(exported):
    code = (
        "import sys; from pathlib import Path; from containers.core import manifest; from containers.serve import engines\n"
        f"directory = Path({str(exported)!r}); facts = manifest.read(directory)\n"
        "engine = engines.load(directory, facts, device='cpu'); engines.check_golden(engine, directory, facts)\n"
        "sys.exit(engine.name != 'openvino-int8' or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


def make_fragile(plain, directory, *, readers: tuple[str, ...], last: str | None):
    """A net that int8 breaks and float does not: one channel, which none of its `readers` uses, dwarfs its 63 neighbours.

    `last` is the batch norm whose sum with that channel ends it.
    """
    model = artifact.load(plain)
    state = {name: value.clone() for name, value in model.state_dict.items()}
    state["bn1.weight"][0] *= 30
    state["bn1.bias"][0] = 1000
    for layer in readers:
        state[f"{layer}.weight"][:, 0] = 0
    if last:
        state[f"{last}.weight"][0], state[f"{last}.bias"][0] = 0, -3000
    photo = quantisation.decoded([plain / manifest.GOLDEN_FILE], colours.SPEC)
    answer = export.eager(Artifact(plain, model.manifest, state), photo)[0].tolist()
    facts = model.manifest.model_copy(update={"golden": Golden(probabilities=tuple(answer))})
    artifact.save(directory, state, (plain / manifest.GOLDEN_FILE).read_bytes(), facts)


@pytest.mark.slow
def test_an_int8_engine_that_answers_wrongly_is_refused(plain, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantisation, "MOST_RESTORED_LAYERS", 1)  # too few for this one
    readers = ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0")
    make_fragile(plain, tmp_path / "model", readers=readers, last=None)
    assert export.main(["--model-dir", str(tmp_path / "model"), "--data", str(data)]) == 1
    facts = manifest.read(tmp_path / "model")
    assert [entry.name for entry in facts.engines] == ["openvino-fp32"]
    assert not list((tmp_path / "model/engines").glob("*int8*"))
    assert "openvino-int8 was not written: on 60 validation photos accuracy went from 0.95" in capsys.readouterr().out
    assert engines.load(tmp_path / "model", facts, device="cpu").name == "openvino-fp32"


@pytest.mark.slow
def test_layers_that_int8_would_break_go_back_to_float(plain, data, tmp_path, capfd):
    make_fragile(plain, tmp_path / "model", readers=("layer1.0.conv1",), last="layer1.0.bn2")
    assert export.main(["--model-dir", str(tmp_path / "model"), "--data", str(data)]) == 0
    int8 = manifest.read(tmp_path / "model").engines[1]
    assert int8.accuracy >= int8.accuracy_eager - 1 / 60
    assert "0 answers changed of which fp32 was sure" in int8.note
    assert "were reverted back to the floating-point precision" in capfd.readouterr().out


def test_fp32_alone_needs_no_calibration_photos_and_none_needs_nothing(plain, data, tmp_path):
    directory = shutil.copytree(plain, tmp_path / "model")
    valid = [(path, 0) for path in (data / "valid" / "blue").iterdir()]
    assert export.add_engines(directory, "none", [], []) == export.Exported()
    exported = export.add_engines(directory, "int8", [], valid)
    assert [entry.name for entry in exported.engines] == ["openvino-fp32"]
    assert "at least 300 training photos, there are 0" in exported.notes[0]


def test_a_failing_export_leaves_the_artifact_whole(plain, data, tmp_path, monkeypatch, capsys):
    def broken(model):
        raise RuntimeError("the converter does not know this layer")

    monkeypatch.setattr(export, "convert", broken)
    directory = shutil.copytree(plain, tmp_path / "model")
    assert export.main(["--model-dir", str(directory), "--data", str(data)]) == 1
    assert "openvino-fp32 was not written: RuntimeError: the converter does not know" in capsys.readouterr().out
    assert engines.load(directory, manifest.read(directory), device="cpu").name == "eager"


def test_a_disk_without_room_for_engines_leaves_the_artifact_whole(plain, data, tmp_path, monkeypatch, capsys):
    keep = artifact.replace_engines

    def on_a_full_disk(*arguments):
        with files_of_at_most(1 << 10):
            return keep(*arguments)

    monkeypatch.setattr(artifact, "replace_engines", on_a_full_disk)
    directory = shutil.copytree(plain, tmp_path / "model")
    assert export.main(["--model-dir", str(directory), "--data", str(data), "--engines", "fp32"]) == 1
    assert "the engines were not kept: [Errno 27] File too large" in capsys.readouterr().out
    assert engines.load(directory, manifest.read(directory), device="cpu").name == "eager"
    assert not [path for path in (directory / "engines").rglob("*") if path.is_file()]


def test_photos_of_other_classes_are_refused(plain, data, tmp_path, capsys):
    shutil.copytree(data / "valid", tmp_path / "photos")
    (tmp_path / "photos" / "blue").rename(tmp_path / "photos" / "azure")
    assert export.main(["--model-dir", str(plain), "--data", str(tmp_path / "photos")]) == 2
    assert "holds other classes than this model knows" in capsys.readouterr().err


def test_other_photos_of_the_same_classes_are_refused(plain, data, tmp_path, capsys):
    """One training photo fewer is another split of them: what is validated on was then trained on, or the reverse."""
    facts = manifest.read(plain)
    index = export._photos(data, facts)
    known = facts.provenance.model_copy(update={"dataset": {"fingerprint": index.fingerprint}})
    model = shutil.copytree(plain, tmp_path / "model")
    text = facts.model_copy(update={"provenance": known}).model_dump_json()
    (model / manifest.MANIFEST_FILE).write_text(text, encoding="utf-8")
    shutil.copytree(data, tmp_path / "photos")
    assert export._photos(tmp_path / "photos", manifest.read(model)).class_names == facts.class_names  # elsewhere, but the same
    next((tmp_path / "photos" / "train" / "blue").iterdir()).unlink()
    assert export.main(["--model-dir", str(model), "--data", str(tmp_path / "photos")]) == 2
    assert "holds other photos than this model was trained on" in capsys.readouterr().err
    assert not manifest.read(model).engines


_QUICK = ("squeezenet1_1", "mobilenet_v3_small")
_ALL = [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in architectures.ARCHITECTURES]


@pytest.mark.parametrize("name", _ALL)
def test_every_architecture_converts(name, tmp_path):
    """Random weights, batch norms adapted to the photos so that answers differ between them."""
    torch.manual_seed(0)
    spec = PreprocessSpec(resize=232, crop=224) if name == "vit_b_16" else PreprocessSpec(resize=72, crop=64)
    net = architectures.build(name, 5).train()
    rounds = 10 if any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules()) else 0
    photos = np.random.default_rng(0).integers(0, 256, (4, *spec.shape), dtype=np.uint8)
    photos[::2] //= 3
    with torch.no_grad():
        for _ in range(rounds):
            net(artifact.normalise(torch.from_numpy(photos), spec.mean, spec.std))
    facts = artifacts.save(tmp_path, architecture=name, class_names=tuple("abcde"), resize=spec.resize, crop=spec.crop)
    model = Artifact(tmp_path, facts, net.eval().state_dict())
    expected = export.eager(model, photos)
    ov.save_model(export.convert(model), tmp_path / "graph.xml", compress_to_fp16=False)
    compiled = quantisation.compiled(tmp_path / "graph.xml")
    for some in (photos, photos[:1]):
        np.testing.assert_allclose(quantisation.run(compiled, some), expected[: len(some)], atol=1e-4)
