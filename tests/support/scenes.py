"""Photos for tests of decoding: smooth colours with edges, in any format."""

import io

import numpy as np
from PIL import Image, ImageFilter


def scene(width=320, height=240, seed=0):
    """A photo-like RGB image: smooth colours with edges."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(70, 186, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(width=500, height=375, seed=0, **options) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.convert(options.pop("mode", "RGB")).save(buffer, "JPEG", **options)
    return buffer.getvalue()
