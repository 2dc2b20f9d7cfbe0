"""Look at photos and machine before any worker exists: every file is decoded once, in parallel.

Writes the dataset index that workers read (`JobPaths.index_file`) and `data_report.json` in the output folder.
Unreadable files are skipped in train, up to a share the user allows. In valid and test they are an error unless the user says
otherwise, because an exact evaluation must not shrink silently. Run as a process of its own, so that the first process never
waits for it with deaf ears.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from containers.core import host, logs
from containers.train import data_report, listening, machine, own_process, photos, splits
from containers.train.config import TrainConfig
from containers.train.errors import DataError
from containers.train.index import SPLITS, DatasetIndex, Photo, Split
from containers.train.job import TrainingJob
from containers.train.photos import Facts
from containers.train.splits import Tree

log = logs.get("containers.train.preflight")

REPORT_FILE = "data_report.json"
_SHOWN = 10
_PROGRESS_SECONDS = 10.0


def run(job: TrainingJob) -> DatasetIndex:
    """All checks, the cheap ones first. Raises ConfigError, DataError, AcceleratorError or PeerLost."""
    tree = splits.find(job.channels)
    check_classes(tree)
    machine.check_hosts(job.cluster, job.config.min_hosts)
    if not any(job.paths.checkpoint_dir.glob("checkpoint-*.pt")):  # what a job that has begun still needs is seen in `room`
        machine.check_disk(job.paths)
    machine.check_processes(job.cluster, gpus := machine.check_accelerator(job.device))
    if job.config.torch_compile:
        machine.check_compiler(gpus)
    paths = [path for classes in tree.splits.values() for files in classes.values() for path in files]
    facts = list(_progress(photos.inspect_all(paths, host.cores()), len(paths)))
    index = assemble(tree, facts, job.config.max_bad_fraction, may_skip(job.config))
    report = data_report.make(index, facts, _duplicates(index, facts), [photos.name_of(path) for path in tree.stray])
    (job.paths.output_dir / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    index.write(job.paths.index_file)
    _tell(report)
    machine.resolve_peers(job.cluster)
    return index


def check_classes(tree: Tree) -> None:
    """What can be seen without opening a photo. Raises DataError with everything that is wrong."""
    train = tree.splits.get("train", {})
    problems = [
        f"{name}: this class folder is empty: put photos into it, or remove it" for name, files in train.items() if not files
    ]
    problems += [
        f"{photos.name_of(Path(name))}: the name of this class is not UTF-8: rename its folder"
        for name in train
        if not photos.printable(Path(name))
    ]
    if not train:
        problems.append("there are no class folders: put the photos of each class into a folder named after it")
    elif len(train) == 1:
        problems.append(f"there is only one class ({next(iter(train))}): a classifier needs two")
    for split in ("valid", "test"):
        given = tree.splits.get(split)
        if given is None:
            continue
        problems += [f"{split}/{name}: no such class in train" for name in given if name not in train]
        problems += [f"{name}: has no photo in {split}" for name in train if not given.get(name) and split == "valid"]
        if not any(given.values()):
            problems.append(f"{split}: holds no photos")
    _raise(problems)


def may_skip(config: TrainConfig) -> Collection[str]:
    """The splits whose unreadable files may be left out."""
    return SPLITS if config.bad_evaluation_photos == "skip" else ("train",)


def assemble(tree: Tree, facts: Iterable[Facts], max_bad_fraction: float, skippable: Collection[str]) -> DatasetIndex:
    """Readable photos by split, missing splits made. Raises DataError naming what is unreadable or missing.

    Up to `max_bad_fraction` of the files of each split in `skippable` may be unreadable, of the others none.
    """
    by_path = {each.path: each for each in facts}
    bad: dict[Split, list[str]] = defaultdict(list)
    good: dict[Split, dict[str, list[Facts]]] = {}
    for split, classes in tree.splits.items():
        good[split] = {name: [] for name in classes}
        for name, files in classes.items():
            for path in files:
                problem = by_path[path].problem
                if problem is None:
                    good[split][name].append(by_path[path])
                else:
                    bad[split].append(f"{photos.name_of(path)}: {problem}")
    _check_bad(
        bad, {split: sum(map(len, classes.values())) for split, classes in tree.splits.items()}, max_bad_fraction, skippable
    )
    made = _make_splits(good)
    names = tuple(sorted(good["train"]))
    _raise(
        f"{name}: has no photo {'to spare ' * (split in made)}for {split}; every class needs photos in train and valid"
        for split in ("train", "valid")
        for name in names
        if not good[split].get(name)
    )
    index = {
        split: tuple(
            Photo(path=each.path, label=label, width=each.width, height=each.height, bytes=each.bytes)
            for label, name in enumerate(names)
            for each in good[split].get(name, [])
        )
        for split in SPLITS
        if split in good
    }
    present = {split: found for split, found in index.items() if found}
    return DatasetIndex(
        class_names=names, splits=present, split_made=made, skipped=tuple(line for split in SPLITS for line in bad[split])
    )


def _check_bad(
    bad: dict[Split, list[str]], files: dict[Split, int], max_bad_fraction: float, skippable: Collection[str]
) -> None:
    problems = []
    for split in SPLITS:
        if bad[split] and split not in skippable:
            why = "it must be exact, so nothing is skipped there unless bad_evaluation_photos is skip: repair or remove"
            problems.append(f"{len(bad[split])} unreadable file(s) in {split}; {why}\n{_lines(bad[split])}")
        elif len(bad[split]) > max_bad_fraction * files.get(split, 0):
            share = f"{len(bad[split])} of {files[split]} {'training' if split == 'train' else split} files are unreadable"
            remedy = f"max_bad_fraction allows {max_bad_fraction:g}: repair or remove them, or raise it"
            problems.append(f"{share} and {remedy}\n{_lines(bad[split])}")
    _raise(problems)


def _lines(items: list[str]) -> str:
    more = [f"    and {len(items) - _SHOWN} more"] * (len(items) > _SHOWN)
    return "\n".join([*(f"    {item}" for item in items[:_SHOWN]), *more])


def _make_splits(good: dict[Split, dict[str, list[Facts]]]) -> dict[Split, str]:
    """Move photos from train into the splits that the user did not give; how, for each of them."""
    missing: list[Split] = [split for split in ("valid", "test") if split not in good]
    for split in missing:
        good[split] = {}
    for name, found in good["train"].items() if missing else ():
        chosen = splits.take({str(each.path): each.sha256 for each in found}, missing)
        for split in missing:
            good[split][name] = [each for each in found if chosen.get(str(each.path)) == split]
        good["train"][name] = [each for each in found if str(each.path) not in chosen]
    how = f"not given, so made of {splits.FRACTION:.0%} of each class's training photos, chosen by the SHA-256 of their bytes"
    return dict.fromkeys(missing, how)


def _duplicates(index: DatasetIndex, facts: Iterable[Facts]) -> list[list[str]]:
    """Groups of equal files in different splits or under different classes."""
    digests = {each.path: each.sha256 for each in facts}
    groups: dict[str, list[tuple[Split, Photo]]] = defaultdict(list)
    for split, found in index.splits.items():
        for photo in found:
            groups[digests[photo.path]].append((split, photo))
    return [
        [str(photo.path) for _, photo in group]
        for group in groups.values()
        if len({(split, photo.label) for split, photo in group}) > 1
    ]


def _raise(problems: Iterable[str]) -> None:
    found = list(problems)
    if len(found) == 1:
        raise DataError(found[0])
    if found:
        more = [f"  - and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
        lines = [f"  - {problem}" for problem in found[:_SHOWN]] + more
        raise DataError("\n".join([f"{len(found)} things to mend in the photos", *lines]))


def _progress(items: Iterable[Facts], total: int) -> Iterator[Facts]:
    """A bar on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc="checking photos", unit="photo", leave=False)
        return
    said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            log.info("checking photos", extra={"done": done, "total": total})


def _tell(report: dict[str, object]) -> None:
    summary = {name: report[name] for name in ("photos", "bytes", "imbalance", "traits", "fingerprint")}
    log.info("dataset", extra=summary | {"classes": len(report["classes"])})  # type: ignore[arg-type]
    for warning in data_report.warnings(report):
        log.warning("dataset", extra={"note": warning})
    if sys.stderr.isatty():
        print(data_report.table(report), file=sys.stderr)  # noqa: T201 - the table is for people at a terminal


def main(arguments: list[str]) -> int:
    job = TrainingJob.read(Path(arguments[0]))
    logs.configure(host=job.cluster.current_host)

    def check() -> int:
        with listening.beside(job):
            run(job)
        return 0

    return own_process.guarded(check)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
