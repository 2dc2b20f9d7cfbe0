"""Make examples/photos: patches of three CC0 photos that the scikit-image wheel holds, as train/valid/test folders.

    pip download --no-deps scikit-image==0.26.0 && python scripts/make_textures.py scikit_image-*.whl examples/photos

The three splits come from separate bands of each photo, so that no pixel is in two of them; patches overlap only inside a
band. Which patches are kept is decided by the SHA-256 of their pixels: the same on every machine.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path

from PIL import Image

PHOTOS = {
    "brick": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "grass": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "gravel": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
}
SIDE = 64
BANDS = {"train": range(0, 320, SIDE), "valid": range(320, 384, SIDE), "test": range(384, 512, SIDE)}
PER_CLASS = 24


def patches(photo: Image.Image, rows: range) -> dict[str, Image.Image]:
    """Name → RGB patch, at most PER_CLASS of them, from the bands that start at `rows`."""
    boxes = [(column, row, column + SIDE, row + SIDE) for row in rows for column in range(0, photo.width - SIDE + 1, SIDE // 2)]
    found = {f"{row:03d}_{column:03d}": photo.crop((column, row, right, low)) for column, row, right, low in boxes}
    ranked = sorted(found, key=lambda name: hashlib.sha256(found[name].tobytes()).hexdigest())
    return {name: found[name].convert("RGB") for name in sorted(ranked[:PER_CLASS])}


def main(wheel: Path, out: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for class_name, digest in PHOTOS.items():
            raw = archive.read(f"skimage/data/{class_name}.png")
            if hashlib.sha256(raw).hexdigest() != digest:
                raise SystemExit(f"{class_name}.png in {wheel} is another photo than the CC0 one this script was written for")
            photo = Image.open(io.BytesIO(raw)).convert("L")
            for split, rows in BANDS.items():
                folder = out / split / class_name
                folder.mkdir(parents=True, exist_ok=True)
                for name, patch in patches(photo, rows).items():
                    patch.save(folder / f"{class_name}_{name}.jpg", quality=90)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
