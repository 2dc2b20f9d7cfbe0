"""`data`: a folder of labelled photos to the stage's bucket; only what changed travels, an interrupted upload is continued.

    FOLDER/train/pug/a.jpg        →  s3://BUCKET/data/NAME/train/pug/a.jpg
    FOLDER/pug/a.jpg              →  the same, where the folder has no train/: training then makes its own validation split
    FOLDER/pretrained/resnet50.pth   weights to start from travel along, for training without internet

An object counts as unchanged when its size and its SHA-256, which S3 checked on arrival and keeps, are the file's.
"""

import argparse
import base64
import hashlib
import mimetypes
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from containers.core.errors import ConfigError
from deploy.context import Context
from deploy.errors import explained
from deploy.storage import DATA, delete_objects

CHANNELS = ("train", "valid", "test", "pretrained")
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"))
_WORKERS = 10  # the size of boto3's connection pool


@dataclass(frozen=True, kw_only=True)
class Summary:
    uri: str
    files: int
    bytes: int
    uploaded: int
    unchanged: int
    extra: int
    """In the bucket, but not in the folder."""
    deleted: int
    ignored: int
    """In the folder, but not a photo."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="holds train/CLASS/photo.jpg (valid/ and test/ likewise), or CLASS/photo.jpg")
    parser.add_argument("--name", help="of the dataset in the bucket (the folder's name)")
    parser.add_argument("--delete", action="store_true", help="delete objects that are not in the folder")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError when the folder is not such a tree."""
    files, ignored = photos(args.folder)
    name = args.name or args.folder.resolve().name
    with explained(f"upload to {context.names.uri(DATA, name)}"):
        summary = upload(context, files, f"{DATA}/{name}", delete=args.delete, ignored=ignored)
    done = "would be" if context.dry_run else "were"
    context.emit(
        asdict(summary),
        lambda: (
            f"{summary.uri}: {summary.files} photos, {summary.bytes / 1e6:.0f} MB; {summary.uploaded} {done} uploaded, "
            f"{summary.unchanged} unchanged, {summary.deleted} of {summary.extra} extra {done} deleted, {ignored} ignored"
        ),
    )


def photos(folder: Path) -> tuple[dict[str, Path], int]:
    """(`channel/class/name` → file, how many other files there are). Raises ConfigError, which says what is expected."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder")
    has_splits = (folder / "train").is_dir()
    found: dict[str, Path] = {}
    ignored = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        inside = key_of(path, folder)
        key = inside if has_splits or inside.startswith("pretrained/") else f"train/{inside}"
        if _belongs(key):
            found[key] = path
        else:
            ignored += 1
    classes = {key.split("/")[1] for key in found if key.startswith("train/")}
    if empty := [name for name in _class_folders(folder / "train" if has_splits else folder) if name not in classes]:
        raise ConfigError(f"{', '.join(empty)}: no photo in this class folder of {folder}; training would refuse it, remove it")
    if len(classes) < 2:
        expected = f"{folder} must hold train/CLASS/photo.jpg (or CLASS/photo.jpg) with two classes or more"
        raise ConfigError(f"{expected}; it has {', '.join(sorted(classes)) or 'none'}")
    return found, ignored


def key_of(path: Path, folder: Path) -> str:
    """`path` below `folder` as S3's keys are written. Raises ConfigError for a name that is no UTF-8, as old archives hold."""
    key = path.relative_to(folder).as_posix()
    if not key.isascii() and any("\ud800" <= letter <= "\udfff" for letter in key):  # how Python shows undecodable bytes
        raise ConfigError(f"{key!a}: this name is not UTF-8, and S3 takes no other: rename it (convmv -f latin1 -t utf8)")
    return key


def _class_folders(root: Path) -> list[str]:
    """As training would see them (`containers.train.splits`), but for the weights that travel along."""
    names = [entry.name for entry in sorted(root.iterdir()) if entry.is_dir()]
    return [name for name in names if not name.startswith(".") and name not in ("__MACOSX", "pretrained")]


def _belongs(key: str) -> bool:
    channel, *inner = key.split("/")
    if any(part.startswith(".") for part in inner):
        return False
    is_photo = len(inner) >= 2 and Path(key).suffix.lower() in _SUFFIXES
    return channel in CHANNELS and (is_photo or (channel == "pretrained" and len(inner) == 1))


def upload(context: Context, files: dict[str, Path], prefix: str, *, delete: bool, ignored: int, write: bool = True) -> Summary:
    """`files` maps a key below `prefix` to its file. Without `write`, or with `context.dry_run`, nothing is written."""
    s3, bucket = context.client("s3"), context.names.in_bucket
    write = write and not context.dry_run
    there = dict(_objects(s3, bucket, f"{prefix}/"))
    extra = [key for key in there if key.removeprefix(f"{prefix}/") not in files]

    def one(item: tuple[str, Path]) -> bool:
        key, path = f"{prefix}/{item[0]}", item[1]
        body = path.read_bytes()
        checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if there.get(key) == len(body) and _checksum(s3, bucket, key) == checksum:
            return False
        if write:
            media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            sha256 = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": checksum}
            s3.put_object(**bucket, Key=key, Body=body, ContentType=media_type, **sha256)
        return True

    uploaded = sum(_parallel(one, list(files.items()), context, context.names.uri(prefix)))
    if delete and write:
        delete_objects(s3, bucket, [{"Key": key} for key in extra])
    return Summary(
        uri=context.names.uri(prefix),
        files=len(files),
        bytes=sum(path.stat().st_size for path in files.values()),
        uploaded=uploaded,
        unchanged=len(files) - uploaded,
        extra=len(extra),
        deleted=len(extra) if delete else 0,
        ignored=ignored,
    )


def channels_in(context: Context, name: str) -> list[str]:
    """Which of CHANNELS the dataset has in the bucket. Raises ConfigError when it has no train."""
    prefix = f"{DATA}/{name}/"
    with explained(context.names.uri(DATA, name)):
        answer = context.client("s3").list_objects_v2(**context.names.in_bucket, Prefix=prefix, Delimiter="/")
    present = {row["Prefix"].removeprefix(prefix).rstrip("/") for row in answer.get("CommonPrefixes", [])}
    if "train" not in present:
        raise ConfigError(f"{context.names.uri(DATA, name)} holds no train/: upload with `python -m deploy data FOLDER`")
    return [channel for channel in CHANNELS if channel in present]


def _parallel(work: Any, items: list[Any], context: Context, what: str) -> list[Any]:
    """The results of `work` on each item, with a progress bar; the first exception stops what has not begun."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=context.console, transient=True) as progress, ThreadPoolExecutor(_WORKERS) as pool:
        task = progress.add_task(what, total=len(items))
        futures = [pool.submit(work, item) for item in items]
        for future in futures:
            future.add_done_callback(lambda _: progress.advance(task))
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        failed = [future for future in futures if future.done() and not future.cancelled() and future.exception()]
        return [future.result() for future in (failed or futures)]


def _objects(s3: Any, bucket: dict[str, str], prefix: str) -> Iterator[tuple[str, int]]:
    for page in s3.get_paginator("list_objects_v2").paginate(**bucket, Prefix=prefix):
        for row in page.get("Contents", []):
            yield row["Key"], row["Size"]


def _checksum(s3: Any, bucket: dict[str, str], key: str) -> str:
    return str(s3.head_object(**bucket, Key=key, ChecksumMode="ENABLED").get("ChecksumSHA256", ""))
