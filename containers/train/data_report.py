"""What preflight found out about the photos: as JSON for programs, as a table for people."""

from collections import Counter
from typing import Any

from containers.train.index import SPLITS, DatasetIndex
from containers.train.photos import TRAITS, Facts

_SHOWN = 5
IMBALANCE = 10.0


def make(index: DatasetIndex, facts: list[Facts], duplicates: list[list[str]], stray: list[str]) -> dict[str, Any]:
    """`duplicates` are groups of equal files that lie in different splits or classes."""
    traits = Counter(trait for each in facts for trait in each.traits)
    sizes = sorted(min(photo.width, photo.height) for photos in index.splits.values() for photo in photos)
    counts = {split: index.counts(split) for split in index.splits}
    return {
        "fingerprint": index.fingerprint,
        "classes": {name: {s: counts[s][i] for s in index.splits} for i, name in enumerate(index.class_names)},
        "photos": {split: len(photos) for split, photos in index.splits.items()},
        "bytes": sum(photo.bytes for photos in index.splits.values() for photo in photos),
        "shorter_side_pixels": {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]},
        "imbalance": round(max(counts["train"]) / min(counts["train"]), 2),
        "traits": {name: traits[name] for name in TRAITS if traits[name]},
        "example": _example(index),
        "made_splits": dict(index.split_made),
        "skipped": list(index.skipped),
        "duplicates": duplicates,
        "stray_files": stray,
    }


def _example(index: DatasetIndex) -> str | None:
    """A photo that no weight is fitted to, for a first question to the model: of the test split."""
    photos = index.splits.get("test", ())
    return str(photos[len(photos) // 2].path) if photos else None


def warnings(report: dict[str, Any]) -> list[str]:
    """What a user should know before believing the results, one sentence each."""
    found = [f"{split}: {how}" for split, how in report["made_splits"].items()]
    if report["skipped"]:
        found.append(f"{len(report['skipped'])} unreadable file(s) skipped: {_some(report['skipped'])}")
    if report["duplicates"]:
        pairs = [" = ".join(group) for group in report["duplicates"]]
        found.append(f"{len(pairs)} photo(s) lie in more than one split or class, which flatters the results: {_some(pairs)}")
    if report["imbalance"] > IMBALANCE:
        found.append(f"the largest class has {report['imbalance']:.0f} times the photos of the smallest: see class_balance")
    if report["stray_files"]:
        found.append(
            f"{len(report['stray_files'])} file(s) outside the class folders, or folder(s) that are links, are not used: "
            f"{_some(report['stray_files'])}"
        )
    found += [f"{count} photo(s) {TRAITS[name]}" for name, count in report["traits"].items()]
    return found


def table(report: dict[str, Any]) -> str:
    """Photos per class and split; of many classes, the largest and the smallest."""
    splits = [split for split in SPLITS if split in report["photos"]]
    rows = sorted(report["classes"].items(), key=lambda item: (-item[1]["train"], item[0]))
    if len(rows) > 2 * _SHOWN + 1:
        middle = [(f"… {len(rows) - 2 * _SHOWN} more", dict.fromkeys(splits, ""))]
        rows = [*rows[:_SHOWN], *middle, *rows[-_SHOWN:]]
    rows = [*rows, ("all", report["photos"])]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'class':<{width}}" + "".join(f"{split:>9}" for split in splits)]
    lines += [f"{name:<{width}}" + "".join(f"{counts[split]:>9}" for split in splits) for name, counts in rows]
    return "\n".join([*lines, *(f"- {warning}" for warning in warnings(report))])


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
