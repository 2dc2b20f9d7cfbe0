"""Which folder is which split and which class, and splits made where the user gave none.

Understood are a folder per class, and train/valid/test folders of such. SageMaker's channels may give the splits apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from containers.train.errors import DataError
from containers.train.index import SPLITS, Split

FRACTION = 0.15
"""Of a class's photos, for each split that is made."""
NAMES: dict[str, Split] = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
_IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Tree:
    """Files as they lie: split → class name → paths, sorted. `stray` is what is not looked at: files outside every
    class folder, and inside one, folders that are links.
    """

    splits: dict[Split, dict[str, list[Path]]]
    stray: list[Path]


def find(channels: Mapping[str, Path]) -> Tree:
    """Look into the channels `train`, `valid` and `test`. Raises DataError naming the folder that cannot be understood."""
    roots: dict[Split, Path] = {}
    for channel, folder in channels.items():
        if channel not in SPLITS:
            continue
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; it should hold a folder of photos per class")
        for split, root in _roots(channel, folder).items():
            if split in roots:
                raise DataError(f"{root} and {roots[split]} both hold the {split} photos: keep one of them")
            roots[split] = root
    stray: list[Path] = []
    splits = {split: _classes(roots[split], stray) for split in SPLITS if split in roots}
    return Tree(splits, stray)


def _roots(channel: Split, folder: Path) -> dict[Split, Path]:
    """A folder of splits counts as one when its train folder holds folders: a class may be called `train`."""
    folders = _folders(folder)
    named = {NAMES[each.name.lower()]: each for each in folders if each.name.lower() in NAMES}
    if channel != "train" or "train" not in named or not _folders(named["train"]):
        return {channel: folder}
    other = [str(each) for each in folders if each not in named.values()]
    if other:
        raise DataError(f"{folder} holds {named['train'].name} and also {_some(other)}: keep only train, valid and test there")
    return named


def _classes(root: Path, stray: list[Path]) -> dict[str, list[Path]]:
    stray += [entry for entry in sorted(root.iterdir()) if _visible(entry) and not entry.is_dir()]
    return {folder.name: sorted(_files(folder, stray)) for folder in _folders(root)}


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if _visible(entry) and entry.is_dir()]


def _files(folder: Path, stray: list[Path]) -> Iterable[Path]:
    for entry in sorted(folder.iterdir()):
        if not _visible(entry):
            continue
        if entry.is_dir() and entry.is_symlink():  # a link to a folder above would never end
            stray.append(entry)
        elif entry.is_dir():
            yield from _files(entry, stray)
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is a photo that cannot be read
            yield entry


def _visible(entry: Path) -> bool:
    return not entry.name.startswith(".") and entry.name not in _IGNORED


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def take(photos: Mapping[str, str], into: Iterable[Split]) -> dict[str, Split]:
    """Choose photos of one class for the splits to be made: `photos` maps a path to the SHA-256 of its bytes.

    Ranked by that SHA-256, so that the same photos always go the same way, whatever they are called and wherever they lie, and
    copies stay together. Each split gets FRACTION of them, at least one, as long as one is left for train.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for path, digest in photos.items():
        groups[digest].append(path)
    ranked = [groups[digest] for digest in sorted(groups)]
    wanted = max(1, round(FRACTION * len(ranked)))
    chosen: dict[str, Split] = {}
    for split in into:
        for _ in range(min(wanted, len(ranked) - 1)):
            chosen.update(dict.fromkeys(ranked.pop(0), split))
    return chosen
