"""Damage to the bytes of a photo, reproducible from a seeded random.Random."""

import random
import struct

from tests.support.artifacts import photo

ORIENTATION, MAKE, X_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x010F, 0x011A, 0x0128
SHORT, LONG, ASCII, FLOAT = 3, 4, 2, 11


def exif(*entries: tuple[int, int, bytes]) -> bytes:
    """An EXIF block (little-endian TIFF) of these tags: number, type, the four bytes of the value."""
    fields = b"".join(struct.pack("<HHL4s", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)


def turned(orientation: int, *more: tuple[int, int, bytes]) -> bytes:
    """An EXIF block with this orientation."""
    return exif((ORIENTATION, SHORT, struct.pack("<Hxx", orientation)), *more)


def small_photos() -> list[bytes]:
    """One of each format, and those that can with EXIF, which is a good part of their bytes."""
    size = (60, 50)
    plain = [photo(5, size, format) for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    odd = (MAKE, ASCII, b"me\0\0"), (X_RESOLUTION, LONG, b"H\0\0\0"), (RESOLUTION_UNIT, SHORT, b"\2\0\0\0")
    return plain + [photo(6, size, format, exif=turned(6, *odd)) for format in ("JPEG", "PNG", "WEBP")]


SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
"""One of the first colour alone, without data: libjpeg goes over the whole picture for it all the same."""


def scanned(jpeg: bytes, count: int) -> bytes:
    """With `count` scans more."""
    return jpeg.removesuffix(b"\xff\xd9") + SCAN * count + b"\xff\xd9"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Flipped bytes, a cut, a hole, a repeated part, or garbage in the middle."""
    start, end = sorted(chance.sample(range(len(data) + 1), 2))
    kind = chance.randrange(5)
    if kind == 0:
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        return bytes(damaged)
    if kind == 1:
        return data[:start]
    if kind == 2:
        return data[:start] + data[end:]
    if kind == 3:
        return data[:end] + data[start:]
    return data[:start] + chance.randbytes(end - start) + data[end:]
