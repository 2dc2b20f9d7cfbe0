"""containers/core/{manifest,artifact}.py: what training writes is what serving reads, and nothing else is."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from containers.core import artifact, manifest
from containers.core.errors import ArtifactError
from containers.core.preprocessing import PreprocessSpec, prepare
from tests.support.full_disk import files_of_at_most
from tests.support.saved import CLASSES, facts, golden_png, rewrite


def test_a_round_trip_gives_the_same_answers(saved, model):
    loaded = artifact.load(saved)
    pixels = torch.from_numpy(np.array(prepare(Image.open(saved / "golden.png"), loaded.manifest.preprocessing)))[None]
    batch = artifact.normalise(pixels, loaded.manifest.preprocessing.mean, loaded.manifest.preprocessing.std)
    built = loaded.build()
    assert not built.training
    assert not any(t.is_meta for t in [*built.parameters(), *built.buffers()])
    with torch.inference_mode():
        assert torch.equal(built(batch), model(batch))


def test_the_manifest_survives_the_round_trip(saved):
    read = manifest.read(saved)
    assert read.class_names == CLASSES
    assert read == facts(files=read.files)
    assert set(read.files) == {"weights.safetensors", "golden.png", "engines/fast/model.bin"}
    assert "Käfer" in (saved / "manifest.json").read_text(encoding="utf-8")


def test_no_pickle_is_written(saved):
    for path in saved.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"PK\x03\x04")), path


def test_saving_again_replaces_and_a_save_cut_short_is_no_model(model, copy):
    class Broken(dict):
        def items(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifact.save(copy, Broken(), golden_png(), facts())
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        manifest.read(copy)
    artifact.save(copy, model.state_dict(), golden_png(), facts(metrics={"valid_loss": 0.1}))
    assert artifact.load(copy).manifest.metrics == {"valid_loss": 0.1}


def test_a_disk_that_refuses_leaves_no_manifest_and_no_half_written_weights(model, copy):
    with files_of_at_most(1 << 16), pytest.raises(OSError, match=r"weights\.safetensors"):
        artifact.save(copy, model.state_dict(), golden_png(), facts())
    assert not (copy / "weights.safetensors").exists()
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        manifest.read(copy)
    artifact.save(copy, model.state_dict(), golden_png(), facts())
    artifact.load(copy)


def test_engines_that_do_not_fit_leave_a_whole_model_without_them(copy, tmp_path):
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"x" * (1 << 17))
    small.write_bytes(b"x")
    with files_of_at_most(1 << 16), pytest.raises(OSError, match="File too large"):
        artifact.replace_engines(copy, manifest.read(copy), (), {"engines/a.bin": small, "engines/b.bin": large})
    assert set(artifact.load(copy).manifest.files) == {"weights.safetensors", "golden.png"}
    assert [path.name for path in (copy / "engines").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.png", "engines/fast/model.bin"])
def test_one_altered_bit_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name}.*SHA-256 differs"):
        artifact.load(copy)


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.png", "engines/fast/model.bin"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing from"):
        artifact.load(copy)


def test_a_link_is_refused_even_where_its_target_is_right_and_inside(copy):
    weights = copy / "weights.safetensors"
    weights.rename(copy / "elsewhere")
    weights.symlink_to("elsewhere")
    with pytest.raises(ArtifactError, match="is a link or leads outside"):
        artifact.load(copy)


def test_a_linked_directory_that_leads_outside_is_refused(copy, tmp_path):
    (copy / "engines").rename(tmp_path / "outside")
    (copy / "engines").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="is a link or leads outside"):
        artifact.load(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "engines/../../secret"])
def test_names_that_lead_outside_are_refused(copy, name):
    (copy.parent / "secret").write_text("x")
    rewrite(copy, lambda raw: raw["files"].update({name: "0" * 64}))
    with pytest.raises(ArtifactError, match="leads outside: refuse to read it"):
        artifact.load(copy)


def test_the_model_directory_itself_may_be_a_link(copy, tmp_path):
    (tmp_path / "current").symlink_to(copy)
    assert artifact.load(tmp_path / "current").manifest.class_names == CLASSES


@pytest.mark.parametrize("dropped", ["weights.safetensors", "golden.png"])
def test_a_needed_file_without_a_digest_is_refused(copy, dropped):
    rewrite(copy, lambda raw: raw["files"].pop(dropped))
    with pytest.raises(ArtifactError, match=f"no SHA-256 of {dropped}"):
        artifact.load(copy)


def test_an_engine_without_a_digest_is_refused(copy):
    engine = {"name": "fast", "file": "engines/other.bin", "precision": "fp32", "tolerance": 0.1}
    rewrite(copy, lambda raw: raw.update(engines=[engine]))
    with pytest.raises(ArtifactError, match=r"no SHA-256 of engines/other\.bin"):
        artifact.load(copy)


def test_weights_of_another_architecture_are_refused(copy):
    rewrite(copy, lambda raw: raw.update(architecture="resnet18"))
    with pytest.raises(ArtifactError, match="does not fit resnet18"):
        artifact.load(copy).build()


def test_weights_that_are_no_safetensors_are_refused(copy):
    (copy / "weights.safetensors").write_bytes(b"\x80\x04not weights")
    digest = manifest.sha256(copy / "weights.safetensors")
    rewrite(copy, lambda raw: raw["files"].update({"weights.safetensors": digest}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.load(copy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_artifact_error(copy):
    (copy / "weights.safetensors").chmod(0)
    with pytest.raises(ArtifactError, match="cannot be read"):
        artifact.load(copy)


def test_strided_and_half_precision_weights_are_kept(tmp_path):
    state = {"a": torch.arange(12.0).reshape(3, 4).t(), "b": torch.ones(2, dtype=torch.bfloat16)}
    artifact.save(tmp_path, state, golden_png(), facts())
    loaded = artifact.load(tmp_path).state_dict
    assert torch.equal(loaded["a"], state["a"])
    assert loaded["b"].dtype is torch.bfloat16


def test_normalise_is_torchvisions(saved):
    from torchvision.transforms import v2

    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    spec = PreprocessSpec()
    ours = artifact.normalise(pixels, spec.mean, spec.std)
    theirs = v2.functional.normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(spec.mean), list(spec.std))
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    wide = artifact.normalise(pixels, spec.mean, spec.std, repeat=8)
    assert torch.equal(wide, ours)
    assert wide.is_contiguous(memory_format=torch.channels_last)
