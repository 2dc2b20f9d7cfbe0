"""From the bytes of a photo to the uint8 tensor a model is fed: the one definition that evaluation and serving share.

Needs numpy and Pillow only, so the serving fronts can use it without torch. Normalisation is not done here: it belongs to
the engine's graph, which takes uint8. Random augmentation of training photos lives in `train`.
"""

import io
import re
import threading
import warnings
from typing import Annotated, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import BaseModel, ConfigDict, Field

from containers.core import fast_jpeg, jpeg_scans
from containers.core.errors import ImageError, ImageTooLarge

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # Pillow knows dozens more; EPS would start Ghostscript
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a photo of this orientation upright (EXIF 2.32, 4.6.4 A, tag 274)."""
MOST_PIXELS = 178_956_970
"""Pillow's own limit for what is no attack."""
_BAND_PIXELS = 1 << 18
_PILLOW = r"PIL\."
_PILLOWS = ("ignore", None, Warning, re.compile(_PILLOW), 0)
"""As `warnings.filters` has it: action, message, category, module, line."""
_ONE_AT_A_TIME = threading.Lock()
_Triple = tuple[float, float, float]
_Scale = Annotated[float, Field(gt=0)]


class PreprocessSpec(BaseModel):
    """Travels in the artifact's manifest, so that serving cannot differ from evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Annotated[int, Field(ge=8, le=2048)] = 256
    """Pixels the shorter side has after resizing."""
    crop: Annotated[int, Field(ge=8, le=2048)] = 224
    """Side of the square taken from the centre."""
    mean: _Triple = (0.485, 0.456, 0.406)
    std: tuple[_Scale, _Scale, _Scale] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of what `prepare` returns."""
        return (self.crop, self.crop, 3)


def preprocess(
    data: bytes, spec: PreprocessSpec, *, max_pixels: int = MOST_PIXELS, out: np.ndarray | None = None
) -> np.ndarray:
    """`prepare(decode(data, spec), spec)`, byte for byte, and quicker for the usual JPEG (`fast_jpeg`). Raises ImageError.

    `out`: contiguous memory of `spec.shape` for the answer, made if not given.
    """
    quick = _quick(data, spec, max_pixels, out)
    if quick is not None:
        return quick
    prepared = prepare(decode(data, spec, max_pixels=max_pixels), spec)
    if out is None:
        return prepared
    out[...] = prepared
    return out


def _quick(data: bytes, spec: PreprocessSpec, max_pixels: int, out: np.ndarray | None = None) -> np.ndarray | None:
    """None for what is not an upright RGB JPEG that is decoded at full size, and for all that is wrong: `decode` says what."""
    if fast_jpeg.load() is None:
        return None
    try:
        size = fast_jpeg.plain_size(data) or _upright_size(data)
        if size is None or min(size) >= 4 * spec.resize or size[0] * size[1] > max_pixels or jpeg_scans.too_many(data):
            return None
        width, height = size
        box = _box(width, height, spec)
        return fast_jpeg.resize(data, width, height, box, spec.crop, cubic=spec.interpolation == "bicubic", out=out)
    except Exception:  # noqa: BLE001 - a damaged header raises many kinds of errors
        return None


def _upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an RGB JPEG, None where it is something else or lies on its side."""
    _expect_no_warnings()
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        upright = type(image) is JpegImageFile and image.mode == "RGB" and turn_of(image) is None
        return image.size if upright else None


def decode(data: bytes, spec: PreprocessSpec | None = None, *, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decode a photo completely, turned upright by its EXIF orientation, as RGB (transparency on white).

    With `spec`, a JPEG much larger than needed is decoded at a reduced DCT scale that still leaves at least twice
    `spec.resize` pixels on the shorter side.
    Takes up to 9 bytes of memory for each pixel beside `data`, 16 for WebP, whose decoder holds several pictures.
    Raises ImageError when the bytes are no image, are cut short, are a JPEG of too many scans (`jpeg_scans`), or hold more
    than `max_pixels` pixels (ImageTooLarge).
    """
    _expect_no_warnings()
    if jpeg_scans.too_many(data):
        most = f"a JPEG of more than {jpeg_scans.MOST_SCANS} scans, or of thousands of parts"
        raise ImageError(f"{most}, as no camera or program writes it: save it again")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(f"{image.width}x{image.height} pixels; the limit is {max_pixels} in all")
        if spec is not None and isinstance(image, JpegImageFile):  # phones' multi-picture files are JPEGs too
            image.draft("RGB", (2 * spec.resize, 2 * spec.resize))
        image.load()
        if (turn := turn_of(image)) is not None:
            image = image.transpose(turn)  # in place of what was there: memory for two of them is enough
        return _to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met before ours when ours is the larger
        raise ImageTooLarge(f"too many pixels: {error}") from error
    except UnidentifiedImageError:
        raise ImageError("not a readable image: of no format that is known here") from None
    except Exception as error:  # Pillow's parsers raise whatever damage makes them stumble over
        raise ImageError(f"not a readable image: {error or type(error).__name__}") from error


def _expect_no_warnings() -> None:
    """Silence what Pillow's modules say of a photo: of its size, for which the limit here is the one that counts, and of odd
    metadata, in words that the sender chooses.

    A filter that stays. `warnings.catch_warnings` exchanges the filters of the whole process: threads that leave it in another
    order than they came let warnings through meanwhile, or leave everything silent for good (Python's documentation of it).
    """
    if not _expects_none():
        with _ONE_AT_A_TIME:  # a second call would take the filter out for a moment
            if not _expects_none():
                warnings.filterwarnings("ignore", module=_PILLOW)


def _expects_none() -> bool:
    """Others put their filters in front, pytest for one."""
    return warnings.filters[:1] == [_PILLOWS]


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What turns the photo upright by its EXIF orientation; None where it is upright (a TIFF that is loaded: Pillow turned it).

    A photo whose EXIF cannot be read is upright. The other tags are left alone: Pillow's `exif_transpose` writes them all anew,
    and fails where one has not the type it should have.
    """
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - of many kinds, and none says anything about the picture
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if not _is_deep(image) and not _is_clear(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if height <= rows:
        return _band_to_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        whole.paste(_band_to_rgb(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return whole


def _is_deep(image: Image.Image) -> bool:
    """16-bit grey, or 32 bits as which Pillow may read it."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _is_clear(image: Image.Image) -> bool:
    """Some of it may be transparent."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _band_to_rgb(image: Image.Image) -> Image.Image:
    """Needs 12 bytes for each pixel beside the result's 4: hence band by band."""
    if _is_deep(image):  # convert() would clip, not scale
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # the nearest: an odd divisor leaves no ties
    if _is_clear(image):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(canvas, rgba)
    return image.convert("RGB")


def prepare(image: Image.Image, spec: PreprocessSpec) -> np.ndarray:
    """Resize the shorter side to `spec.resize` and take the central square, in one step.

    Returns uint8 of shape (crop, crop, 3), RGB. The crop is computed in the photo's own coordinates, so that only the
    pixels that are kept are resampled.
    """
    box = _box(*image.size, spec)
    return np.asarray(image.resize((spec.crop, spec.crop), FILTERS[spec.interpolation], box=box))


def _box(width: int, height: int, spec: PreprocessSpec) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is kept."""
    scale = min(width, height) / spec.resize  # source pixels per output pixel
    side = min(spec.crop * scale, width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)
