"""The quick way answers as the usual one does, byte for byte, or leaves the photo to it."""

import io
import struct
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from containers.core import build_native, fast_jpeg, preprocessing
from containers.core.errors import ImageError
from containers.core.preprocessing import PreprocessSpec, decode, prepare, preprocess
from tests.support.scenes import jpeg

SPEC = PreprocessSpec()
SMALL = PreprocessSpec(resize=64, crop=56)

pytestmark = pytest.mark.skipif(
    bool(build_native.build()) and not fast_jpeg.LIBRARY.exists(), reason="there is no C compiler to build resample.c with"
)


def usual(data, spec=SPEC, **options):
    return prepare(decode(data, spec, **options), spec)


def quick(data, spec=SPEC, max_pixels=10**8):
    return preprocessing._quick(data, spec, max_pixels)


def test_it_is_there():
    assert fast_jpeg.load() is not None


@pytest.mark.parametrize("spec", [SPEC, SMALL, PreprocessSpec(resize=224, crop=224)], ids=["256-224", "64-56", "no-margin"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 256), (224, 224), (333, 1000), (1000, 333), (61, 47), (1, 1), (3, 200), (200, 3)]
)
def test_every_shape_is_the_usual_ways_byte_for_byte(size, interpolation, spec):
    spec = spec.model_copy(update={"interpolation": interpolation})
    data = jpeg(*size, quality=90)
    found = quick(data, spec)
    if min(size) >= 4 * spec.resize:
        assert found is None
    else:
        assert found.dtype == np.uint8
        assert np.array_equal(found, usual(data, spec))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 900), height=st.integers(1, 900), resize=st.integers(8, 300), crop=st.integers(8, 300),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_any_geometry(width, height, resize, crop, interpolation):
    spec = PreprocessSpec(resize=resize, crop=crop, interpolation=interpolation)
    data = jpeg(width, height, seed=width)
    assert np.array_equal(preprocess(data, spec), usual(data, spec))


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_blocks": 3},
        {"quality": 5},
    ],
    ids=str,
)
def test_every_kind_of_jpeg(options):
    data = jpeg(501, 333, **options)
    assert np.array_equal(quick(data), usual(data))


@pytest.mark.parametrize(("width", "height", "mode"), [(300, 200, "RGB"), (60, 900, "RGB"), (90, 80, "L"), (1200, 1100, "RGB")])
def test_an_answer_in_memory_that_was_given_fills_it_and_nothing_beside_it(width, height, mode):
    data = jpeg(width, height, mode=mode)
    slots = np.full((3, *SPEC.shape), 77, np.uint8)
    found = preprocess(data, SPEC, out=slots[1])
    assert np.shares_memory(found, slots)
    assert np.array_equal(slots[1], usual(data))
    assert (slots[[0, 2]] == 77).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"x" * 99}, {"icc_profile": b"y" * 70_000}])
def test_the_size_of_a_plain_jpeg_is_known_without_pillow(options):
    data = jpeg(501, 333, **options)
    assert fast_jpeg.plain_size(data) == (501, 333)
    assert np.array_equal(quick(data), usual(data))


def _with_segment(marker: int, content: bytes) -> bytes:
    data = jpeg()
    return data[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


OTHERS = {
    "exif": jpeg(exif=Image.Exif()),
    "grey": jpeg(mode="L"),
    "cmyk": jpeg(mode="CMYK"),
    "xmp": _with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>"),
    "mpf": _with_segment(0xE2, b"MPF\0II*\0"),
    "short icc": _with_segment(0xE2, b"ICC_PROFILE\0"),
    "adobe": _with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "short jfif": _with_segment(0xE0, b"JFIF\0"),
    "another frame": _with_segment(0xC1, b"\x08\0\1\0\1\3"),
    "empty": b"",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "no start": jpeg()[1:],
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_pillow_looks_at_every_other(data):
    with suppress(IndexError, struct.error):
        assert fast_jpeg.plain_size(data) is None
    try:
        expected = usual(data)
    except ImageError:
        assert quick(data) is None
    else:
        assert np.array_equal(preprocess(data, SPEC), expected)


def test_damage_to_the_head_of_a_jpeg_is_found_as_pillow_finds_it():
    """What one is refused for the other is refused for, and what one reads the other reads the same."""
    chance, whole = np.random.default_rng(4), jpeg(90, 70)
    head = whole.index(b"\xff\xda") + 14
    for _ in range(3000):
        data = bytearray(whole)
        data[int(chance.integers(head))] = int(chance.integers(256))
        try:
            expected = usual(bytes(data), SMALL)
        except ImageError:
            with pytest.raises(ImageError):
                preprocess(bytes(data), SMALL)
        else:
            assert np.array_equal(preprocess(bytes(data), SMALL), expected)


def test_what_needs_pillow_is_left_to_it():
    turned = Image.Exif()
    turned[0x0112] = 6
    png = io.BytesIO()
    Image.new("RGB", (50, 50)).save(png, "PNG")
    left = [jpeg(exif=turned), jpeg(mode="L"), jpeg(mode="CMYK"), jpeg(1200, 1100), png.getvalue()]
    for data in left:
        assert quick(data) is None
        assert np.array_equal(preprocess(data, SPEC), usual(data))
    upright = Image.Exif()
    upright[0x0112] = 1
    assert quick(jpeg(exif=upright)) is not None


def test_the_limit_on_pixels_holds():
    assert quick(jpeg(300, 200), max_pixels=59_999) is None
    with pytest.raises(ImageError, match=r"^300x200 pixels; the limit is 59999 in all$"):
        preprocess(jpeg(300, 200), SPEC, max_pixels=59_999)
    assert preprocess(jpeg(300, 200), SPEC, max_pixels=60_000).shape == SPEC.shape


def outcome(way, data):
    try:
        return way(data, SMALL).tobytes()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_photo_cut_short_anywhere_has_the_usual_outcome(options):
    data = jpeg(60, 50, **options)
    for length in range(len(data)):
        assert outcome(preprocess, data[:length]) == outcome(usual, data[:length]), length


@settings(max_examples=400, deadline=None)
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), progressive=st.booleans())
def test_damaged_bytes_have_the_usual_outcome(edits, progressive):
    data = bytearray(jpeg(60, 50, progressive=progressive))
    for where, value in edits:
        data[min(int(where * len(data)), len(data) - 1)] = value
    assert outcome(preprocess, bytes(data)) == outcome(usual, bytes(data))


def test_what_pillow_says_of_odd_metadata_reaches_nobody():
    """An entry of 50 bytes that are not in the file. `warnings` keeps each wording for good, and callers choose the wording."""
    entry = b"II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\x32\0\0\0\x1a\0\0\0\0\0\0\0"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert quick(jpeg(exif=b"Exif\0\0" + entry)) is not None
    assert said == []


def test_buffers_are_kept_but_few_and_small():
    big = fast_jpeg.resize(jpeg(2001, 2000), 2001, 2000, (0, 0, 2001, 2000), 224, cubic=False)
    assert big is None
    for _ in range(6):
        quick(jpeg())
    assert len(fast_jpeg._buffers) <= fast_jpeg._KEPT
    assert all(len(buffer) <= 3 * fast_jpeg.MOST_PIXELS + fast_jpeg._READ_AHEAD for buffer in fast_jpeg._buffers)
