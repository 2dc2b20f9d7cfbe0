"""What decoding a large photo costs in memory, and that the bands which save it change no pixel."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from containers.core import preprocessing
from containers.core.preprocessing import decode
from tests.support.mutations import turned
from tests.support.scenes import encoded, scene

CLEAR_COLOUR = (130, 120, 110)


def clear(mode):
    """A photo of this mode, of every transparency."""
    image = scene(120, 90)
    image.paste(CLEAR_COLOUR, (10, 10, 40, 60))
    alpha = Image.fromarray(np.add.outer(np.arange(90), np.arange(120)).astype(np.uint8))
    image.putalpha(alpha)
    return image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGBA", {}),
        ("LA", {}),
        ("P", {"transparency": bytes(range(256))}),
        ("P", {"transparency": 3}),
        ("RGB", {"transparency": CLEAR_COLOUR}),
    ],
    ids=["rgba", "la", "palette", "index", "colour"],
)
def test_a_large_photo_is_converted_in_bands_to_what_it_is_as_a_whole(mode, options, monkeypatch):
    data = encoded(clear(mode), **options)
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    whole = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    assert np.array_equal(np.asarray(decode(data)), whole)
    monkeypatch.setattr(preprocessing, "_BAND_PIXELS", 120 * 7)  # which leaves a band of 6 rows
    assert np.array_equal(np.asarray(decode(data)), whole)


@pytest.mark.parametrize("band", [1 << 20, 7 * 256, 1])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_value_of_sixteen_bit_grey_becomes_the_nearest_of_eight(kind, band, monkeypatch):
    monkeypatch.setattr(preprocessing, "_BAND_PIXELS", band)
    every = np.arange(65536).reshape(256, 256).astype(np.uint16)
    grey = np.asarray(decode(encoded(Image.fromarray(every), kind)))
    assert np.array_equal(grey, np.repeat(np.round(every / 257.0).astype(np.uint8)[..., None], 3, axis=2))


def test_wide_grey_beyond_sixteen_bits_is_clipped():
    odd = np.array([[-5, 70_000, 65_535, 257]], dtype=np.int32)
    assert np.asarray(decode(encoded(Image.fromarray(odd), "TIFF")))[0, :, 0].tolist() == [0, 255, 255, 1]


PEAK = """
import sys
from pathlib import Path
from containers.core.preprocessing import PreprocessSpec, preprocess

def peak():  # of this process alone; getrusage also counts the one it was forked from
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

small, large = (Path(name).read_bytes() for name in sys.argv[1:])
preprocess(small, PreprocessSpec())
before = peak()
preprocess(large, PreprocessSpec())
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("mode", "kind", "options", "bound"),
    [
        ("I;16", "PNG", {}, 9),
        ("I;16", "TIFF", {}, 9),
        ("RGBA", "PNG", {}, 9),
        ("LA", "PNG", {}, 9),
        ("P", "PNG", {"transparency": 0}, 9),
        ("RGB", "PNG", {"transparency": (0, 0, 0)}, 9),
        ("RGB", "PNG", {"exif": turned(6)}, 9),
        ("RGBA", "PNG", {"exif": turned(6)}, 9),
        ("RGB", "TIFF", {}, 9),
        ("RGB", "WEBP", {"lossless": True, "method": 0}, 16),
    ],
    ids=lambda value: "turned" if value and "exif" in str(value) else None,
)
def test_decoding_takes_so_many_bytes_of_memory_for_each_pixel(mode, kind, options, bound, tmp_path):
    side = 4000
    for name, size in (("small", 64), ("large", side)):
        (tmp_path / name).write_bytes(encoded(Image.new(mode, (size, size)), kind, **options))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown / side**2 < bound
