"""Trees of photos as people have them, and splits made where they gave none."""

from pathlib import Path

import pytest

from containers.train import splits
from containers.train.errors import DataError


def tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(found: splits.Tree) -> dict[str, dict[str, list[str]]]:
    return {s: {name: [path.name for path in files] for name, files in classes.items()} for s, classes in found.splits.items()}


def test_a_folder_per_class(tmp_path: Path) -> None:
    root = tree(tmp_path, "dog/b.jpg", "dog/a.jpg", "cat/more/c.jpg", ".git/x", "dog/.DS_Store", "dog/Thumbs.db", "labels.csv")
    found = splits.find({"train": root, "pretrained": tmp_path / "elsewhere"})
    assert names(found) == {"train": {"cat": ["c.jpg"], "dog": ["a.jpg", "b.jpg"]}}
    assert found.stray == [root / "labels.csv"]


def test_a_link_to_nothing_is_a_photo_that_cannot_be_read_and_a_linked_folder_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", "dog/a.jpg", "cat/b.jpg", "cat/more/c.jpg")
    (root / "dog" / "gone.jpg").symlink_to("/mnt/not-mounted/gone.jpg")
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "lost").symlink_to("/mnt/not-mounted")
    found = splits.find({"train": root})
    assert names(found) == {"train": {"cat": ["b.jpg", "c.jpg"], "dog": ["a.jpg", "gone.jpg"]}}
    assert found.stray == [root / "lost", root / "cat" / "again"]


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "Validation"])
def test_a_folder_per_split(tmp_path: Path, valid: str) -> None:
    root = tree(tmp_path, "train/dog/a.jpg", f"{valid}/dog/b.jpg", "test/dog/c.jpg")
    assert set(splits.find({"train": root}).splits) == {"train", "valid", "test"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/a.jpg", "car/b.jpg")
    assert names(splits.find({"train": root})) == {"train": {"car": ["b.jpg"], "train": ["a.jpg"]}}


def test_splits_and_classes_side_by_side_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/dog/a.jpg", "valid/dog/b.jpg", "cats/c.jpg")
    with pytest.raises(DataError, match="cats"):
        splits.find({"train": root})


def test_a_split_given_twice_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "all/train/dog/a.jpg", "all/valid/dog/b.jpg", "more/dog/c.jpg")
    with pytest.raises(DataError, match="both hold the valid photos"):
        splits.find({"train": root / "all", "valid": root / "more"})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        splits.find({"train": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("photos", "expected"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (6, 2, 2)), (20, (14, 3, 3)), (100, (70, 15, 15))],
)
def test_sizes_of_made_splits(photos: int, expected: tuple[int, int, int]) -> None:
    chosen = splits.take({f"{i}.jpg": f"{i:064x}" for i in range(photos)}, ["valid", "test"])
    taken = list(chosen.values())
    assert (photos - len(taken), taken.count("valid"), taken.count("test")) == expected


def test_the_choice_follows_the_bytes_and_not_the_names() -> None:
    digests = [f"{(i * 7919) % 1000:064x}" for i in range(40)]
    one = splits.take({f"a{i}.jpg": digest for i, digest in enumerate(digests)}, ["valid", "test"])
    other = splits.take({f"z{99 - i}.png": digest for i, digest in reversed(list(enumerate(digests)))}, ["valid", "test"])
    assert {(int(name[1:-4]), split) for name, split in one.items()} == {(99 - int(n[1:-4]), s) for n, s in other.items()}


def test_copies_stay_together() -> None:
    chosen = splits.take({"a.jpg": "0" * 64, "copy of a.jpg": "0" * 64, "b.jpg": "1" * 64}, ["valid"])
    assert chosen == {"a.jpg": "valid", "copy of a.jpg": "valid"}
