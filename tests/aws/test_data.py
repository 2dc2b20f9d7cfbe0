import argparse
import os
from pathlib import Path

import pytest

from containers.core.errors import ConfigError
from deploy import data, transform
from deploy.errors import DeployError
from deploy.storage import Bucket
from tests.support import aws as fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/pug/a.jpg", "train/pug/b b.JPEG", "train/hound/ü.png", "valid/pug/c.webp"):
        path = tmp_path / "dogs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "dogs/train/pug/notes.txt").write_text("not a photo")
    (tmp_path / "dogs/train/pug/.hidden.jpg").write_text("not a photo")
    (tmp_path / "dogs/train/loose.jpg").write_text("in no class")
    return tmp_path / "dogs"


@pytest.fixture
def context(aws):
    fake.bare_bucket()
    return fake.context()


class Counting:
    """Counts the calls that pass through to a client; can fail the nth upload."""

    def __init__(self, client, fail_at: int = 0) -> None:
        self.client, self.puts, self.fail_at = client, [], fail_at

    def __getattr__(self, name):
        return getattr(self.client, name)

    def put_object(self, **call):
        self.puts.append(call["Key"])
        if len(self.puts) == self.fail_at:
            raise ConnectionError("cable pulled")
        return self.client.put_object(**call)


def command(folder: Path, **options) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return parser.parse_args([str(folder), *(f"--{name}" for name, value in options.items() if value)])


def keys(context) -> set[str]:
    listed = context.client("s3").list_objects_v2(Bucket=context.names.bucket).get("Contents", [])
    return {row["Key"] for row in listed}


ALL = {"data/dogs/train/pug/a.jpg", "data/dogs/train/pug/b b.JPEG", "data/dogs/train/hound/ü.png", "data/dogs/valid/pug/c.webp"}


def upload(context, folder, **options):
    files, ignored = data.photos(folder)
    return data.upload(context, files, "data/dogs", delete=options.get("delete", False), ignored=ignored)


def test_first_all_then_nothing_then_only_what_changed(context, folder):
    first = upload(context, folder)
    assert (first.uploaded, first.unchanged, first.ignored) == (4, 0, 3)
    assert keys(context) == ALL
    head = context.client("s3").head_object(
        Bucket=context.names.bucket, Key="data/dogs/train/pug/a.jpg", ChecksumMode="ENABLED"
    )
    assert head["ContentType"] == "image/jpeg"
    assert head["ChecksumSHA256"]
    assert upload(context, folder).uploaded == 0
    (folder / "train/pug/a.jpg").write_bytes(b"train/pug/X.jpg")  # same size, other bytes
    changed = upload(context, folder)
    assert (changed.uploaded, changed.unchanged) == (1, 3)


def test_an_interrupted_upload_is_continued(context, folder, monkeypatch):
    monkeypatch.setattr(data, "_WORKERS", 1)
    real = context.client("s3")
    context._clients["s3"] = Counting(real, fail_at=3)
    with pytest.raises(ConnectionError):
        upload(context, folder)
    context._clients["s3"] = second = Counting(real)
    arrived = len(keys(context))
    assert 2 <= arrived < 4  # what was under way when it failed may still arrive
    assert upload(context, folder).uploaded == len(second.puts) == 4 - arrived
    assert keys(context) == ALL


def test_extra_objects_are_counted_and_deleted_only_on_request(context, folder):
    upload(context, folder)
    (folder / "train/pug/a.jpg").unlink()
    assert (upload(context, folder).extra, len(keys(context))) == (1, 4)
    assert upload(context, folder, delete=True).deleted == 1
    assert keys(context) == ALL - {"data/dogs/train/pug/a.jpg"}


class Refusing:
    """Deletes nothing, which S3 says in an answer that is a success."""

    def __init__(self, client) -> None:
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    def delete_objects(self, *, Delete, **_):
        return {"Errors": [{"Key": row["Key"], "Code": "AccessDenied", "Message": "no"} for row in Delete["Objects"]]}


def test_what_s3_does_not_delete_is_said(context, folder):
    upload(context, folder)
    (folder / "train/pug/a.jpg").unlink()
    context._clients["s3"] = Refusing(context.client("s3"))
    with pytest.raises(DeployError, match=r"1 objects were not deleted, data/dogs/train/pug/a.jpg: AccessDenied no"):
        upload(context, folder, delete=True)
    with pytest.raises(DeployError, match=r"4 objects were not deleted"):
        Bucket(context).delete()


def test_a_dry_run_says_the_same_and_writes_nothing(aws, folder):
    fake.bare_bucket()
    recorder = fake.Recorder()
    context = fake.context(recorder=recorder, dry_run=True)
    data.run(command(folder), context)
    assert "4 photos" in context.out.text
    assert "4 would be" in context.out.text
    assert recorder.writes == []


def test_the_command_says_what_it_did(context, folder):
    data.run(command(folder), context)
    assert "4 were" in context.out.text
    assert data.channels_in(context, "dogs") == ["train", "valid"]


def test_no_bucket_is_explained(aws, folder):
    with pytest.raises(DeployError, match="NoSuchBucket"):
        data.run(command(folder), fake.context())


def test_a_dataset_that_is_not_there(context):
    with pytest.raises(ConfigError, match="deploy data FOLDER"):
        data.channels_in(context, "cats")


def test_a_folder_of_classes_is_one_train_channel_and_weights_travel_along(tmp_path):
    for name in ("pug/a.jpg", "hound/b.jpg", "pretrained/resnet50.pth", "pretrained/deep/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, ignored = data.photos(tmp_path)
    assert set(found) == {"train/pug/a.jpg", "train/hound/b.jpg", "pretrained/resnet50.pth", "pretrained/deep/x.jpg"}
    assert ignored == 0


@pytest.mark.parametrize("find", [data.photos, transform.photos])
def test_a_name_that_is_not_utf_8_is_shown_before_anything_is_sent(tmp_path, find):
    """Archives of other systems unpack so; S3's keys are UTF-8."""
    for name in (b"pug/a.jpg", b"hound/caf\xe9.jpg"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir()
        path.touch()
    with pytest.raises(ConfigError, match=r"'hound/caf\\udce9.jpg': this name is not UTF-8"):
        find(tmp_path)


@pytest.mark.parametrize("splits", ["", "train/"])
def test_a_class_folder_without_a_photo_is_refused_as_training_does(tmp_path, splits):
    """It would not be in the bucket, and the model would not know the class."""
    for name in ("pug/a.jpg", "hound/b.jpg", "beagle/notes.txt", "__MACOSX/._a.jpg", ".git/config"):
        (tmp_path / splits / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / splits / name).touch()
    (tmp_path / "pretrained").mkdir()
    with pytest.raises(ConfigError, match=r"^beagle: no photo in this class folder"):
        data.photos(tmp_path)
    (tmp_path / splits / "beagle/c.jpg").touch()
    assert len(data.photos(tmp_path)[0]) == 3


@pytest.mark.parametrize(("paths", "says"), [([], "none"), (["train/pug/a.jpg"], "it has pug"), (["a.jpg", "b.jpg"], "none")])
def test_a_folder_that_is_no_dataset(tmp_path, paths, says):
    for name in paths:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=says):
        data.photos(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        data.photos(tmp_path / "absent")
