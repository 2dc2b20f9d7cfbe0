"""The dataset as workers see it: preflight decodes every photo once and writes this index; nobody lists folders again."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Photo(BaseModel):
    """`label` indexes `DatasetIndex.class_names`; width and height are as stored, before EXIF rotation."""

    model_config = ConfigDict(frozen=True)

    path: Path
    label: int
    width: int
    height: int
    bytes: int


class DatasetIndex(BaseModel):
    """Readable photos only. Every split that is present holds at least one photo; `train` and `valid` always are."""

    model_config = ConfigDict(frozen=True)

    class_names: tuple[str, ...]
    splits: dict[Split, tuple[Photo, ...]]
    split_made: dict[Split, str] = {}
    """For each split that the user did not give: how it was made."""
    skipped: tuple[str, ...] = ()
    """Unreadable files and why, as `path: reason`."""

    def counts(self, split: Split) -> list[int]:
        """Photos per class."""
        found = Counter(photo.label for photo in self.splits.get(split, ()))
        return [found[label] for label in range(len(self.class_names))]

    @property
    def fingerprint(self) -> str:
        """Equal for equal photos in equal splits, wherever they are mounted: class, file name and size of each."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for photo in self.splits.get(split, ()):
                digest.update(f"{split}/{self.class_names[photo.label]}/{photo.path.name}/{photo.bytes}\n".encode())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
