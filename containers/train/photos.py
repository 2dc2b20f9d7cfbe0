"""One photo, read and decoded in full: what preflight knows of it. Truncation shows only in a full decode.

`Image.verify()` does not see a truncated JPEG, and `Image.open` reads headers only.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from containers.core import preprocessing
from containers.core.errors import ImageError
from containers.train import own_process
from containers.train.errors import DataError

TINY_PIXELS = 32
HUGE_PIXELS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one file. `problem` is None for a photo that decodes; width and height are as stored."""

    path: Path
    bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    traits: tuple[str, ...] = ()
    """Of `TRAITS`: worth counting, harmless."""
    problem: str | None = None


TRAITS = {
    "exif_rotated": "turned upright by their EXIF orientation",
    "cmyk": "CMYK",
    "sixteen_bit": "16 bits per channel",
    "grey": "greyscale",
    "transparent": "with transparency, put on white",
    "tiny": f"shorter than {TINY_PIXELS} pixels on a side",
    "huge": f"over {HUGE_PIXELS // 1_000_000} million pixels",
    "misnamed": "whose suffix names another format",
}


def inspect(path: Path) -> Facts:
    """Read and decode one file; never raises for what is in it, or for its name."""
    if not printable(path):
        return Facts(path=path, problem="has a name that is not UTF-8: rename it")
    try:
        data = path.read_bytes()
    except OSError as error:
        return Facts(path=path, problem=f"cannot be read ({error.strerror})")
    if not data:
        return Facts(path=path, problem="is empty")
    facts = partial(Facts, path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    try:
        preprocessing.decode(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            return facts(width=image.width, height=image.height, traits=_traits(image, path))
    except ImageError as error:
        return facts(problem=str(error))
    except Exception as error:  # noqa: BLE001 - of the image library, which is not known for all of them
        return facts(problem=f"cannot be decoded ({type(error).__name__}: {error})")


def printable(path: Path) -> bool:
    """Whether the name can be written into a report: some archives and disks have names that are not UTF-8."""
    return name_of(path) == str(path)


def name_of(path: Path) -> str:
    """The path as text that can be written anywhere; bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _traits(image: Image.Image, path: Path) -> tuple[str, ...]:
    suffix = Image.registered_extensions().get(path.suffix.lower())
    found = {
        "exif_rotated": preprocessing.turn_of(image) is not None,
        "cmyk": image.mode == "CMYK",
        "sixteen_bit": image.mode == "I" or image.mode.startswith("I;16"),
        "grey": image.mode in ("L", "LA", "1"),
        "transparent": image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info,
        "tiny": min(image.size) < TINY_PIXELS,
        "huge": image.width * image.height > HUGE_PIXELS,
        "misnamed": suffix is not None and suffix != image.format and {suffix, image.format} != {"JPEG", "MPO"},
    }
    return tuple(name for name, holds in found.items() if holds)


def inspect_all(paths: Sequence[Path], processes: int) -> Iterator[Facts]:
    """`inspect` in parallel, in the order of `paths`. Raises DataError where a file kills the process that decodes it."""
    if not paths:
        return
    chunk = max(1, min(32, len(paths) // (4 * processes) or 1))
    context = get_context("fork")  # this process has no threads yet, and fork starts in milliseconds
    with ProcessPoolExecutor(processes, mp_context=context, initializer=own_process.end_with_parent) as pool:
        try:
            yield from pool.map(inspect, paths, chunksize=chunk)
        except BrokenProcessPool:
            raise DataError(
                "decoding a photo killed the process that did it, most often for lack of memory: "
                "use a host with more memory, or remove very large files"
            ) from None
