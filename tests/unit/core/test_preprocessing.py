"""containers/core/preprocessing.py against an independent full-resolution way: Pillow's decoder, torchvision's transforms."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError
from torchvision.transforms import v2

from containers.core.preprocessing import PreprocessSpec, decode, prepare
from tests.support.mutations import ASCII, FLOAT, LONG, MAKE, ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, exif, turned
from tests.support.scenes import encoded, scene

SPEC = PreprocessSpec(resize=64, crop=56)


def full_resolution(image, spec):
    """What torchvision's presets do, on the whole decoded photo."""
    mode = v2.InterpolationMode(spec.interpolation)
    small = v2.functional.resize(image.convert("RGB"), [spec.resize], interpolation=mode, antialias=True)
    return np.asarray(v2.functional.center_crop(small, [spec.crop, spec.crop]))


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(320, 240), (240, 320), (256, 256), (501, 333), (70, 64), (40, 50), (64, 64), (1000, 66)])
def test_prepare_agrees_with_torchvision_at_full_resolution(size, interpolation):
    spec = SPEC.model_copy(update={"interpolation": interpolation})
    ours, theirs = prepare(scene(*size), spec), full_resolution(scene(*size), spec)
    assert ours.shape == spec.shape
    assert ours.dtype == np.uint8
    # torchvision rounds the long side and the crop to whole pixels first: at most half a pixel of shift
    assert difference(ours, theirs).mean() < 2.0
    assert difference(ours, theirs).max() < 40


def test_prepare_is_exactly_pillows_resize_where_nothing_is_rounded():
    spec = PreprocessSpec(resize=64, crop=64)
    image = scene(256, 256)
    assert np.array_equal(prepare(image, spec), np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2), (8, 2000)])
def test_extreme_shapes_are_prepared(size):
    assert prepare(Image.new("RGB", size, (10, 200, 30)), SPEC).reshape(-1, 3).tolist() == [[10, 200, 30]] * 56 * 56


def test_a_crop_larger_than_the_resize_takes_the_whole_short_side():
    spec = PreprocessSpec(resize=64, crop=96)
    image = scene(200, 100)
    whole = image.crop((50, 0, 150, 100)).resize((96, 96), Image.Resampling.BILINEAR)
    assert difference(prepare(image, spec), np.asarray(whole)).max() <= 1


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("size", [(1600, 1200), (1200, 1600), (2049, 515), (300, 200)])
def test_reduced_scale_decoding_agrees_with_full_resolution(size, quality):
    data = encoded(scene(*size), "JPEG", quality=quality)
    fast, full = prepare(decode(data, SPEC), SPEC), full_resolution(decode(data), SPEC)
    assert min(decode(data, SPEC).size) >= min(2 * SPEC.resize, *size)
    assert difference(fast, full).mean() < 2.0


def test_reduced_scale_decoding_is_used_for_large_photos_only():
    assert decode(encoded(scene(1600, 1200), "JPEG"), SPEC).size == (200, 150)
    assert decode(encoded(scene(1600, 1200), "JPEG")).size == (1600, 1200)
    assert decode(encoded(scene(250, 200), "JPEG"), SPEC).size == (250, 200)
    assert decode(encoded(scene(1600, 1200), "PNG"), SPEC).size == (1600, 1200)


def test_phones_multi_picture_files_are_read_as_their_first_picture():
    buffer = io.BytesIO()
    scene(1600, 1200).save(buffer, "MPO", save_all=True, append_images=[scene(1600, 1200, seed=9)])
    assert decode(buffer.getvalue(), SPEC).size == (200, 150)
    assert difference(prepare(decode(buffer.getvalue(), SPEC), SPEC), full_resolution(scene(1600, 1200), SPEC)).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("spec", [None, SPEC], ids=["full", "reduced"])
def test_exif_orientation_is_applied(orientation, spec):
    upright = scene(800, 600)
    flip = Image.Transpose
    undo = {
        1: None, 2: flip.FLIP_LEFT_RIGHT, 3: flip.ROTATE_180, 4: flip.FLIP_TOP_BOTTOM,
        5: flip.TRANSPOSE, 6: flip.ROTATE_90, 7: flip.TRANSVERSE, 8: flip.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = decode(encoded(stored, "JPEG", quality=95, exif=exif), spec)
    assert seen.width > seen.height
    assert difference(prepare(seen, SPEC), full_resolution(upright, SPEC)).mean() < 3


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_of_any_orientation_is_turned_as_pillow_turns_it_to_the_bit(kind, orientation):
    data = encoded(scene(70, 50), kind, exif=turned(orientation))
    with Image.open(io.BytesIO(data)) as image:
        wanted = ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(wanted.convert("RGB")))
    assert wanted.size == ((50, 70) if orientation in (5, 6, 7, 8) else (70, 50))


@pytest.mark.parametrize(
    "odd",
    [(MAKE, FLOAT, b"abcd"), (RESOLUTION_UNIT, LONG, b"\xff\xff\xff\0"), (X_RESOLUTION, ASCII, b"x\0\0\0")],
    ids=["make", "unit", "resolution"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_tag_of_a_wrong_type_keeps_no_photo_from_being_turned(kind, odd):
    data = encoded(scene(70, 50), kind, exif=turned(6, odd))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(decode(encoded(scene(70, 50), kind, exif=turned(6)))))


@pytest.mark.parametrize(
    "broken",
    [b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", exif((ORIENTATION, ASCII, b"6\0\0\0"))],
    ids=["header", "cut", "text"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_whose_exif_cannot_be_read_is_upright(kind, broken):
    assert np.array_equal(np.asarray(decode(encoded(scene(), kind, exif=broken))), np.asarray(decode(encoded(scene(), kind))))


def test_cmyk_is_converted_not_inverted():
    for kind in ("JPEG", "TIFF"):
        image = decode(encoded(scene().convert("CMYK"), kind), SPEC)
        assert image.mode == "RGB"
        assert difference(prepare(image, SPEC), full_resolution(scene(), SPEC)).mean() < 6


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette(mode):
    source = scene().convert(mode)
    assert np.array_equal(np.asarray(decode(encoded(source))), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    grey = np.asarray(decode(encoded(Image.fromarray(ramp), kind)))[..., 0]
    assert np.abs(grey - ramp / 257.0).max() <= 0.51


def test_transparency_lands_on_white():
    rgba = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 10, 10))
    for data in (encoded(rgba), encoded(rgba, "WEBP", lossless=True), encoded(rgba.convert("LA"))):
        pixels = np.asarray(decode(data))
        assert pixels[5, 15].tolist() == [255, 255, 255]
        assert pixels[5, 5].tolist() != [255, 255, 255]


def test_half_transparency_is_blended():
    assert np.asarray(decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))))[0, 0].tolist() == [127, 127, 127]


@pytest.mark.parametrize(("mode", "colour"), [("P", 0), ("RGB", (9, 8, 7)), ("L", 33)])
def test_one_transparent_colour_is_white_too(mode, colour):
    image = Image.new(mode, (4, 4), colour)
    assert np.asarray(decode(encoded(image, transparency=colour)))[0, 0].tolist() == [255, 255, 255]


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        red = np.asarray(decode(data))[0, 0]
        assert red[0] > 240
        assert red[2] < 15


@pytest.mark.parametrize(
    "wrong", [{"resize": 4}, {"crop": 4000}, {"interpolation": "nearest"}, {"colour": "grey"}, {"std": (1, 1, 0)}]
)
def test_a_spec_that_cannot_be_right_is_refused(wrong):
    with pytest.raises(ValidationError):
        PreprocessSpec.model_validate(wrong)


def test_the_spec_survives_json():
    spec = PreprocessSpec(resize=232, interpolation="bicubic")
    assert PreprocessSpec.model_validate_json(spec.model_dump_json()) == spec


def test_this_module_needs_no_torch():
    """The serving fronts and `deploy` import it; torch costs seconds and 200 MB."""
    code = "import sys, containers.core.preprocessing, containers.core.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert torch.__version__  # this process did import it: the check above needs its own
