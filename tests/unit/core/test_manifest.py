"""containers/core/manifest.py: what it does not read, and what it says then."""

import pytest
from pydantic import ValidationError

from containers.core import manifest
from containers.core.errors import ArtifactError
from tests.support.saved import facts, rewrite


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_says_which_image_to_use(copy, version):
    rewrite(copy, lambda raw: raw.update(format_version=version))
    with pytest.raises(ArtifactError, match=f"format version {version}; this Kennel reads 1: use the matching image"):
        manifest.read(copy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "format version None"),
        (b'{"format_version": 1}', "architecture: Field required"),
    ],
)
def test_a_manifest_that_is_not_ours(copy, text, words):
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError) as caught:
        manifest.read(copy)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ["one"]}, "class_names"),
        ({"class_names": ["a", "a", "b"]}, "class_names"),
        ({"golden": {"probabilities": [0.5, 0.5]}}, "golden"),
        ({"calibration": {"temperature": 0}}, "calibration.temperature"),
        ({"files": {"weights.safetensors": "abc"}}, "files.weights.safetensors"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_manifest_altered_by_hand_names_the_field(copy, change, words):
    rewrite(copy, lambda raw: raw.update(change))
    with pytest.raises(ArtifactError, match="altered or is not ours") as caught:
        manifest.read(copy)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"metrics": {"valid_loss": float("nan")}}, {"golden": {"probabilities": [0.5, float("inf"), 0]}}]
)
def test_numbers_that_json_cannot_hold_are_refused_before_they_are_written(change):
    with pytest.raises(ValidationError):
        facts(**change)


def test_an_empty_or_missing_directory_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match=r"no such model directory; train one first \(make demo\)"):
        manifest.read(tmp_path / "none")
    (tmp_path / ".gitignore").touch()
    with pytest.raises(ArtifactError, match=r"no model in .* yet: train one first \(make demo\)"):
        manifest.read(tmp_path)
    (tmp_path / "model.pth").touch()
    with pytest.raises(ArtifactError, match="not a model directory that Kennel wrote"):
        manifest.read(tmp_path)


def test_a_directory_whose_name_no_file_can_have_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match="no such model directory"):
        manifest.read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "x/" * 3000, "loop/file"])
def test_a_name_that_no_file_can_have_is_refused(copy, name):
    (copy / "loop").symlink_to("loop")
    rewrite(copy, lambda raw: raw["files"].update({name: "0" * 64}))
    with pytest.raises(ArtifactError, match=r"cannot be a file of|is missing") as caught:
        manifest.verify(copy, manifest.read(copy))
    assert len(str(caught.value)) < 500
