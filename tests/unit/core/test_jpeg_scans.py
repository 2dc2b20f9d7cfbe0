import io

import numpy as np
import pytest
from PIL import Image

from containers.core import jpeg_scans, preprocessing
from containers.core.errors import ImageError
from containers.core.jpeg_scans import MOST_SCANS, too_many
from tests.support.mutations import SCAN, scanned

SPEC = preprocessing.PreprocessSpec(resize=32, crop=32)


def jpeg(**options: object) -> bytes:
    coarse = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(coarse).save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


def scans(data: bytes) -> int:
    return data.count(b"\xff\xda")


PLAIN, PROGRESSIVE = jpeg(), jpeg(progressive=True)


def test_scans_are_counted_up_to_the_most():
    assert (scans(PLAIN), scans(PROGRESSIVE)) == (1, 10)
    assert not too_many(scanned(PROGRESSIVE, MOST_SCANS - 10))
    assert too_many(scanned(PROGRESSIVE, MOST_SCANS - 9))
    assert too_many(scanned(PROGRESSIVE, 10_000))


def test_scans_of_a_sequential_photo_whose_colours_come_one_after_the_other_count_too():
    start = PLAIN.index(b"\xff\xda")
    first = PLAIN[:start] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    assert not too_many(first + SCAN * 2 + b"\xff\xd9")
    assert too_many(first + SCAN * MOST_SCANS + b"\xff\xd9")


@pytest.mark.parametrize("photo", [PLAIN, PROGRESSIVE], ids=["sequential", "progressive"])
def test_what_only_looks_like_a_scan_is_none(photo: bytes):
    """In metadata (a preview has its own), after the end (further pictures, a film), as data of another kind."""
    for data in (
        jpeg(progressive=photo is PROGRESSIVE, exif=b"Exif\0\0" + SCAN * 1000),
        jpeg(progressive=photo is PROGRESSIVE, comment=SCAN * 1000),
        photo + SCAN * 1000,
    ):
        assert not too_many(data)
        assert np.array_equal(preprocessing.preprocess(data, SPEC), preprocessing.preprocess(photo, SPEC))
    assert not too_many(b"BM" + SCAN * 1000)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", PLAIN[:30], b"\xff\xd8" + b"\xff" * 1000])
def test_what_is_cut_short_is_somebody_else_s_to_refuse(data: bytes):
    assert not too_many(data)


def test_both_ways_refuse_it_in_clear_words():
    bomb = scanned(PROGRESSIVE, 10_000)
    for read in (preprocessing.preprocess, preprocessing.decode):
        with pytest.raises(ImageError, match=rf"^a JPEG of more than {jpeg_scans.MOST_SCANS} scans"):
            read(bomb, SPEC)


def test_a_photo_of_nearly_as_many_is_read():
    assert preprocessing.preprocess(scanned(PROGRESSIVE, MOST_SCANS - 10), SPEC).shape == (32, 32, 3)


def test_what_has_thousands_of_parts_is_refused_however_few_scans_it_has():
    """Each costs a turn of Python's, and 25 MB have room for twelve million of the shortest."""
    start = PROGRESSIVE.index(b"\xff\xda")
    for part in (b"\xff\x01", b"\xff\xfe\x00\x02"):
        assert too_many(PROGRESSIVE[:start] + part * 5_000 + PROGRESSIVE[start:])
        assert not too_many(PROGRESSIVE[:start] + part * 100 + PROGRESSIVE[start:])
