"""What preflight lets pass, what it mends and says, and what ends the job with a sentence that helps."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from containers.core.errors import ConfigError
from containers.train import data_report, preflight
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from containers.train.index import DatasetIndex
from containers.train.job import JobPaths, TrainingJob
from tests.unit.train.jobs import photo, photos


def job_for(tmp_path: Path, channels: dict[str, Path], **config: Any) -> TrainingJob:
    folders = {name: tmp_path / "job" / name for name in ("model_dir", "output_dir", "checkpoint_dir", "scratch_dir")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    paths = JobPaths(**folders, failure_file=tmp_path / "job/failure")
    return TrainingJob(name="t", config=TrainConfig(**config), paths=paths, channels=channels, device="cpu")


def given(tmp_path: Path, *splits: str) -> Path:
    for number, split in enumerate(splits):
        for index, name in enumerate(("cat", "dog")):
            for each in range(4):
                photo(tmp_path / "data" / split / name / f"{each}.png", seed=100 * number + 10 * index + each)
    return tmp_path / "data"


def test_given_splits_are_kept_and_indexed(tmp_path: Path) -> None:
    job = job_for(tmp_path, {"train": given(tmp_path, "train", "val", "test")})
    preflight.run(job)
    index = DatasetIndex.read(job.paths.index_file)
    assert index.class_names == ("cat", "dog")
    assert {split: index.counts(split) for split in index.splits} == {"train": [4, 4], "valid": [4, 4], "test": [4, 4]}
    assert index.split_made == {}
    report = json.loads((job.paths.output_dir / preflight.REPORT_FILE).read_text())
    assert report["fingerprint"] == index.fingerprint
    assert report["shorter_side_pixels"]["median"] == 36
    assert report["duplicates"] == []


def test_missing_splits_are_made_and_said(tmp_path: Path) -> None:
    index = preflight.run(job_for(tmp_path, {"train": photos(tmp_path / "data", each=10)}))
    assert {split: index.counts(split) for split in index.splits} == {"train": [6, 6], "valid": [2, 2], "test": [2, 2]}
    assert set(index.split_made) == {"valid", "test"}
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "data", moved)
    assert preflight.run(job_for(tmp_path, {"train": moved})).fingerprint == index.fingerprint


def test_only_the_missing_split_is_made(tmp_path: Path) -> None:
    index = preflight.run(job_for(tmp_path, {"train": given(tmp_path, "train", "valid")}))
    assert set(index.split_made) == {"test"}
    assert index.counts("valid") == [4, 4]


def test_bad_training_photos_are_named_and_skipped(tmp_path: Path) -> None:
    data = given(tmp_path, "train", "valid", "test")
    (data / "train/cat/empty.jpg").write_bytes(b"")
    (data / "train/cat/notes.txt").write_text("hello")
    index = preflight.run(job_for(tmp_path, {"train": data}, max_bad_fraction=0.2))
    assert index.counts("train") == [4, 4]
    assert [line.partition(": ")[0] for line in index.skipped] == [f"{data}/train/cat/empty.jpg", f"{data}/train/cat/notes.txt"]


def test_too_many_bad_training_photos_end_the_run(tmp_path: Path) -> None:
    data = given(tmp_path, "train", "valid", "test")
    (data / "train/cat/empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 9 training files.*max_bad_fraction allows 0\.01(.|\n)*empty\.jpg: is empty"):
        preflight.run(job_for(tmp_path, {"train": data}))


def test_a_host_that_cannot_compile_says_so_before_it_looks_at_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    data = photos(tmp_path / "data", each=2)
    for path in data.rglob("*.jpg"):
        path.write_bytes(b"no photo")
    with pytest.raises(ConfigError, match="torch_compile needs a compiler"):
        preflight.run(job_for(tmp_path, {"train": data}, torch_compile=True))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_bad_photo_in_evaluation_is_an_error(tmp_path: Path, split: str) -> None:
    data = given(tmp_path, "train", "valid", "test")
    path = photo(data / split / "cat/cut.jpg", seed=9, size=(200, 200))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=rf"unreadable file\(s\) in {split}(.|\n)*cut\.jpg"):
        preflight.run(job_for(tmp_path, {"train": data}, max_bad_fraction=1.0))


def test_a_bad_photo_in_evaluation_is_named_and_skipped_where_the_user_says_so(tmp_path: Path) -> None:
    data = given(tmp_path, "train", "valid", "test")
    (data / "valid/cat/empty.jpg").write_bytes(b"")
    skipping = job_for(tmp_path, {"train": data}, max_bad_fraction=0.3, bad_evaluation_photos="skip")
    index = preflight.run(skipping)
    assert [line.partition(": ")[0] for line in index.skipped] == [f"{data}/valid/cat/empty.jpg"]
    assert sum(index.counts("valid")) == sum(len(list((data / "valid" / name).iterdir())) for name in ("cat", "dog")) - 1
    few = job_for(tmp_path, {"train": data}, max_bad_fraction=0.01, bad_evaluation_photos="skip")
    with pytest.raises(DataError, match=r"1 of \d+ valid files are unreadable"):
        preflight.run(few)


def break_it(data: Path, how: str) -> None:
    if how == "one class":
        for split in ("train", "valid", "test"):
            shutil.rmtree(data / split / "dog")
    elif how == "empty class":
        shutil.rmtree(data / "train/dog")
        (data / "train/dog").mkdir()
    elif how == "class missing from validation":
        shutil.rmtree(data / "valid/dog")
    elif how == "class only in test":
        photo(data / "test/wolf/1.png", seed=77)
    elif how == "nothing":
        shutil.rmtree(data)
        data.mkdir()
    elif how == "empty validation":
        shutil.rmtree(data / "valid")
        (data / "valid").mkdir()
    elif how == "photos without class folders":
        shutil.rmtree(data)
        photo(data / "1.png", seed=1)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("one class", r"only one class \(cat\)"),
        ("empty class", "dog: this class folder is empty"),
        ("class missing from validation", "dog: has no photo in valid"),
        ("class only in test", "test/wolf: no such class in train"),
        ("nothing", "no class folders"),
        ("empty validation", "valid: holds no photos"),
        ("photos without class folders", "no class folders"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, how: str, words: str) -> None:
    data = given(tmp_path, "train", "valid", "test")
    break_it(data, how)
    with pytest.raises(DataError, match=words):
        preflight.run(job_for(tmp_path, {"train": data}))


def test_a_class_of_one_photo_cannot_be_split(tmp_path: Path) -> None:
    data = photos(tmp_path / "data")
    photo(data / "wolf/1.png", seed=5)
    with pytest.raises(DataError, match="wolf: has no photo to spare for valid"):
        preflight.run(job_for(tmp_path, {"train": data}))


def test_duplicates_across_splits_and_classes_are_told(tmp_path: Path) -> None:
    data = given(tmp_path, "train", "valid", "test")
    shutil.copy(data / "train/cat/0.png", data / "test/cat/leak.png")
    shutil.copy(data / "train/cat/1.png", data / "train/dog/wrong.png")
    shutil.copy(data / "train/cat/2.png", data / "train/cat/harmless.png")
    job = job_for(tmp_path, {"train": data})
    preflight.run(job)
    report = json.loads((job.paths.output_dir / preflight.REPORT_FILE).read_text())
    groups = [{Path(path).name for path in group} for group in report["duplicates"]]
    assert sorted(groups, key=sorted) == [{"0.png", "leak.png"}, {"1.png", "wrong.png"}]
    assert any("more than one split or class" in warning for warning in data_report.warnings(report))


def test_imbalance_and_stray_files_are_told(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", ("cat",), each=40)
    photos(data, ("dog",), each=3)
    (data / "readme.md").write_text("x")
    job = job_for(tmp_path, {"train": data})
    preflight.run(job)
    report = json.loads((job.paths.output_dir / preflight.REPORT_FILE).read_text())
    said = "\n".join(data_report.warnings(report))
    assert "28 times the photos of the smallest" in said
    assert "readme.md" in said


def test_a_file_name_that_is_not_utf8_is_a_photo_to_rename(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", each=20)
    old = next((data / "cat").iterdir())
    old.rename(old.with_name(os.fsdecode(b"caf\xe9.png")))
    (data / os.fsdecode(b"lies\xe9.txt")).write_text("x")
    job = job_for(tmp_path, {"train": data}, max_bad_fraction=0.1)
    preflight.run(job)
    report = json.loads((job.paths.output_dir / preflight.REPORT_FILE).read_text())
    assert report["skipped"] == [f"{data}/cat/caf\\xe9.png: has a name that is not UTF-8: rename it"]
    assert report["stray_files"] == [f"{data}/lies\\xe9.txt"]


def test_a_class_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", each=8)
    (data / "cat").rename(data / os.fsdecode(b"ch\xe2t"))
    with pytest.raises(DataError, match=r"ch\\xe2t: the name of this class is not UTF-8: rename its folder"):
        preflight.run(job_for(tmp_path, {"train": data}))


def test_the_table_of_many_classes_is_short(tmp_path: Path) -> None:
    report: dict[str, Any] = {
        "photos": {"train": 900, "valid": 90},
        "classes": {f"class{n:03}": {"train": n, "valid": 1} for n in range(133)},
        "made_splits": {}, "skipped": [], "duplicates": [], "imbalance": 1.0, "stray_files": [], "traits": {},
    }  # fmt: skip
    lines = data_report.table(report).splitlines()
    assert len(lines) == 13
    assert lines[1].split() == ["class132", "132", "1"]
    assert "123 more" in lines[6]


def test_many_problems_are_counted_not_dumped(tmp_path: Path) -> None:
    data = given(tmp_path, "train", "valid", "test")
    for n in range(30):
        (data / "train" / f"empty{n:02}").mkdir()
    with pytest.raises(DataError) as caught:
        preflight.run(job_for(tmp_path, {"train": data}))
    assert len(str(caught.value).splitlines()) < 15
    assert "and 50 more" in str(caught.value)
