"""The quick way from the bytes of a JPEG to resized pixels: libjpeg-turbo into memory that is used again, then `resample.c`.

Optional: without the package simplejpeg or the compiled file (`python -m containers.core.build_native`; the images have it)
there is nothing here, and Pillow does the work. What is here gives Pillow's very bytes: `load` compares before it is used,
decoding as well as resizing.
"""

import ctypes
import functools
import io
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

LIBRARY = Path(__file__).with_name("_resample.so")
SYMBOL = "kennel_resample_1"
"""Its number changes with its arguments, here and in resample.c: a library compiled before that has no such function."""
MOST_PIXELS = 4_000_000
"""Larger photos are Pillow's: the memory below is kept."""
_READ_AHEAD = 32  # bytes after a photo that resample.c may read
_KEPT = 4  # buffers: more threads than this do not decode at once
_SHAPES = ((61, 47, 20), (29, 97, 20), (40, 40, 56), (30, 40, 20), (30, 41, 20), (20, 47, 20), (47, 20, 20))
"""Width, height, size: smaller, larger, both orders of the passes and both sides of the rule for them, and one pass alone."""

_START, _SCAN, _ICC = b"\xff\xd8", 0xDA, 0xE2
_FRAMES = (0xC0, 0xC2)  # baseline, progressive
_SHORTEST_ICC = 16  # with the part's number and how many there are, which Pillow reads
_SHORTEST = {0xE0: 16, 0xDB: 2, 0xC4: 2, 0xDD: 2, 0xFE: 2}  # bytes of JFIF, of tables and restarts, and of comments

Box = tuple[float, float, float, float]
Resample = Callable[[np.ndarray, int, int, Box, int, bool, np.ndarray], int]
_buffers: deque[np.ndarray] = deque(maxlen=_KEPT)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the commonest kind of JPEG: three components of 8 bits, and nothing that could turn it or change it.

    None for every other, which Pillow must look at: with EXIF or XMP (orientation), several pictures (MPF), Adobe's colours.
    Raises IndexError or struct.error where it is cut short.
    """
    size, place = None, 2
    while data[place] == 0xFF and data.startswith(_START):
        marker, length = struct.unpack_from(">BH", data, place + 1)
        if marker == _SCAN:
            return size
        if marker in _FRAMES and size is None:
            bits, height, width, components = struct.unpack_from(">BHHB", data, place + 4)
            if bits != 8 or components != 3 or not width or not height:
                return None
            size = width, height
        elif not _harmless(data, place, marker, length):
            return None
        place += 2 + length
    return None


def _harmless(data: bytes, place: int, marker: int, length: int) -> bool:
    """Whether this segment changes nothing of what Pillow and libjpeg-turbo make of the photo's size, place and colours."""
    if marker == _ICC:
        return length >= _SHORTEST_ICC and data.startswith(b"ICC_PROFILE\0", place + 4)
    return length >= _SHORTEST.get(marker, 1 << 16)


def resize(
    data: bytes, width: int, height: int, box: Box, size: int, *, cubic: bool, out: np.ndarray | None = None
) -> np.ndarray | None:
    """uint8 (size, size, 3): the `box` of the JPEG `data` of `width` × `height` pixels. None where Pillow must do it.

    `out`: contiguous memory for the answer, made if not given; what it holds where the answer is None is not defined.
    Raises ValueError where the JPEG is damaged.
    """
    resample = load()
    if resample is None or width * height > MOST_PIXELS:
        return None
    import simplejpeg

    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    if len(buffer) < 3 * width * height + _READ_AHEAD:
        buffer = np.empty(3 * width * height + _READ_AHEAD, np.uint8)
    pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer)
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    failed = pixels.shape != (height, width, 3) or resample(buffer, width, height, box, size, cubic, out)
    _buffers.append(buffer)
    return None if failed else out


@functools.cache
def load() -> Resample | None:
    """The compiled function, once it and simplejpeg have answered as Pillow does; None where they are not to be had."""
    try:
        import simplejpeg

        function = ctypes.CDLL(str(LIBRARY))[SYMBOL]
    except (ImportError, OSError, AttributeError):
        return None
    function.restype = ctypes.c_int

    def resample(photo: np.ndarray, width: int, height: int, box: Box, size: int, cubic: bool, out: np.ndarray) -> int:
        """`photo`: 3 × width × height bytes and _READ_AHEAD more. 0 where `out` (size, size, 3) was filled."""
        code: int = function(
            ctypes.c_void_p(photo.ctypes.data),
            ctypes.c_int(width),
            ctypes.c_int(height),
            (ctypes.c_float * 4)(*box),
            ctypes.c_int(size),
            ctypes.c_int(cubic),
            ctypes.c_void_p(out.ctypes.data),
        )
        return code

    return resample if _as_pillow(resample) and _decodes_as_pillow(simplejpeg.decode_jpeg) else None


def _as_pillow(resample: Resample) -> bool:
    """Both filters, every shape: another Pillow or processor may round differently."""
    for width, height, size in _SHAPES:
        photo = np.random.default_rng(size + width).integers(0, 256, (height, width, 3), np.uint8)
        padded = np.concatenate([photo.ravel(), np.zeros(_READ_AHEAD, np.uint8)])
        whole = (0.0, 0.0, float(width), float(height))
        box = whole if size in (width, height) else (1.3, 2.6, width - 3.1, height - 1.7)
        for cubic, kind in ((False, Image.Resampling.BILINEAR), (True, Image.Resampling.BICUBIC)):
            out = np.empty((size, size, 3), np.uint8)
            wanted = np.asarray(Image.fromarray(photo).resize((size, size), kind, box=box))
            if resample(padded, width, height, box, size, cubic, out) or not np.array_equal(out, wanted):
                return False
    return True


def _decodes_as_pillow(decode: Callable[..., np.ndarray]) -> bool:
    """Every usual sampling of colour, sizes that fill no block: another libjpeg may round otherwise, or smooth less."""
    for subsampling, progressive in ((0, False), (1, False), (2, False), (2, True)):
        noise = np.random.default_rng(subsampling).integers(0, 256, (11, 9, 3), np.uint8)
        photo = Image.fromarray(noise).resize((61, 47), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        with Image.open(file, formats=("JPEG",)) as image:
            if not np.array_equal(decode(file.getvalue(), colorspace="RGB"), np.asarray(image)):
                return False
    return True
