"""What containers/core/preprocessing.py makes of what is no sound photo: one kind of error, and no warning to anybody."""

import contextlib
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from containers.core.errors import ImageError
from containers.core.preprocessing import PreprocessSpec, decode, preprocess
from tests.support.scenes import encoded, scene

SPEC = PreprocessSpec(resize=64, crop=56)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("spec", [None, SPEC], ids=["full", "reduced"])
def test_a_photo_cut_short_is_refused(kind, spec):
    data = encoded(scene(1600, 1200), kind)
    with pytest.raises(ImageError, match="not a readable image"):
        decode(data[: len(data) // 2], spec)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"not a photo", b"<svg></svg>", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n"],
    ids=["empty", "nul", "text", "svg", "jpeg-magic", "postscript", "pdf"],
)  # fmt: skip
def test_what_is_no_photo_is_refused(data):
    with pytest.raises(ImageError, match="not a readable image"):
        decode(data)


def test_only_photo_formats_are_tried():
    """Pillow knows dozens of formats, some of which start other programs (EPS runs Ghostscript)."""
    for kind in ("EPS", "PCX", "TGA", "ICO", "SGI"):
        with pytest.raises(ImageError, match="not a readable image"):
            decode(encoded(scene(32, 32), kind))


def test_a_bomb_is_refused_by_its_header():
    data = encoded(Image.new("1", (20_000, 20_000)))
    assert len(data) < 100_000
    with pytest.raises(ImageError, match=r"^too many pixels: .*400000000"):
        decode(data)
    with pytest.raises(ImageError, match=r"^300x200 pixels; the limit is 59999 in all$"):
        decode(encoded(scene(300, 200)), max_pixels=59_999)
    assert decode(encoded(scene(300, 200)), max_pixels=60_000).size == (300, 200)


def test_decoding_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(encoded(Image.new("1", (10_000, 9_500))))


@pytest.fixture
def hasty():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])  # Pillow reads EXIF in the first before, in the second while it decodes
def test_decoding_in_several_threads_warns_nobody_and_silences_nobody(kind: str, hasty: None):
    beyond_its_end = struct.pack("<HHLL", 0x010E, 2, 50, 26)  # an entry of 50 bytes that are not in the file
    odd = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + beyond_its_end + bytes(4)
    data = encoded(scene(48, 32), kind, exif=odd)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda _: preprocess(data, PreprocessSpec()), range(1000)):
                pass
        assert [str(warning.message) for warning in said] == []
        warnings.warn("of somebody else", UserWarning, stacklevel=1)
        assert len(said) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    keep=st.floats(0.2, 1),
)
def test_damaged_bytes_are_an_image_or_an_image_error(kind, edits, keep):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    data = bytearray(encoded(scene(48, 32), kind, **options))
    for where, value in edits:
        data[min(int(where * len(data)), len(data) - 1)] = value
    with contextlib.suppress(ImageError):
        assert decode(bytes(data[: int(keep * len(data))]), SPEC, max_pixels=1_000_000).mode == "RGB"
