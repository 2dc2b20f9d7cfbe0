"""How many scans a JPEG has. libjpeg goes over the whole picture for each one, and each may be of a dozen bytes: a small file
of few pixels can keep it busy for minutes.
"""

import re

MOST_SCANS = 256
"""Usual progressive photos have 3 to 20; one for every coefficient of each of three colours would be 192. (libtiff, for JPEG in
TIFF: 100, tif_jpeg.c.)"""

_MOST_MARKERS = 4096
"""Metadata comes in parts of up to 64 KB. Each marker costs a turn of a loop of Python, and may be of two bytes."""
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""As libjpeg finds the next one: after any bytes, FF where data goes on (FF 00), and restarts (jdmarker.c, next_marker)."""
_LONE = (0xD8, 0x01)  # start of the image, TEM: nothing follows them
_END, _SCAN = 0xD9, 0xDA
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)


def too_many(data: bytes) -> bool:
    """Whether `data` is a JPEG with more than MOST_SCANS, or with more parts than any. A sequential one whose first scan has
    all its colours has no other.

    Counts the scans of the photo itself: not those of a preview in its metadata, nor of what follows its end.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    scans, place, colours = 0, 2, b""
    for _ in range(_MOST_MARKERS):
        found = _MARKER.search(data, place)
        if found is None or scans > MOST_SCANS:
            break
        marker, place = found[1][0], found.end()
        if marker == _END:
            break
        if marker in _LONE:
            continue
        if marker in _SEQUENTIAL:
            colours = data[place + 7 : place + 8]
        if marker == _SCAN:
            scans += 1
            if colours and data[place + 2 : place + 3] == colours:
                return False
        place += int.from_bytes(data[place : place + 2], "big")
    else:
        return True
    return scans > MOST_SCANS
