"""One file of a checkpoint: its name, which holds its digest, and what is in it.

Files are read with weights_only=True: they can hold tensors and plain containers, nothing that runs.
"""

import errno
import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from containers.core import manifest
from containers.core.errors import is_out_of_memory

SCHEMA = 1
_DIGITS = 16
_CHECKPOINT = re.compile(rf"checkpoint-(\d{{8}})-([0-9a-f]{{{_DIGITS}}})\.pt")
_NAME = re.compile(rf"(?:checkpoint-\d{{8}}|base)-([0-9a-f]{{{_DIGITS}}})\.pt")


class Unusable(Exception):
    """Why a file is not a checkpoint."""


def name_of(prefix: str, digest: str) -> str:
    """`prefix` is base or checkpoint-<serial>, `digest` the SHA-256 of the content, in hexadecimal."""
    return f"{prefix}-{digest[:_DIGITS]}.pt"


def serial(name: str) -> int:
    """-1 where it is no checkpoint's name."""
    matched = _CHECKPOINT.fullmatch(name)
    return int(matched.group(1)) if matched else -1


def write(path: Path, content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of what was written. Raises OSError where the disk refuses."""
    try:
        torch.save(dict(content), path)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, or the disk failed: {error}") from error
    return manifest.sha256(path)


def read(directory: Path, name: str) -> dict[str, Any]:
    """Raises Unusable, also for a name that no file of ours has: it may come from a list that somebody altered."""
    if not _NAME.fullmatch(name):
        raise Unusable("not a checkpoint's name")
    return checked(name, (directory / name).read_bytes())


def checked(name: str, data: bytes) -> dict[str, Any]:
    """The content of a file of this name. Raises Unusable where the two do not belong together."""
    matched = _NAME.fullmatch(name)
    if not matched or not hashlib.sha256(data).hexdigest().startswith(matched.group(1)):
        raise Unusable("its content is not what was written (SHA-256 differs)")
    content = parse(data)
    if name.startswith("checkpoint") and content.get("schema") != SCHEMA:
        raise Unusable(f"schema {content.get('schema')}, this Kennel reads {SCHEMA}")
    return content


def parse(source: bytes | Path) -> dict[str, Any]:
    """A file is mapped into memory, not read: its tensors are valid as long as they are held, also when it is deleted.

    Raises Unusable, and what torch raises where memory runs out: that says nothing of the file.
    """
    data, mapped = (io.BytesIO(source), False) if isinstance(source, bytes) else (source, True)
    try:
        content: dict[str, Any] = torch.load(data, weights_only=True, map_location="cpu", mmap=mapped)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise Unusable(f"cannot be read: {error}") from error
    return content


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
