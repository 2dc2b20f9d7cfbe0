"""Make a folder of photos out of Tux Paint's photo stamps: seven classes, in colour, 147/33/33 photos, on white.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps.deb.d
    python scripts/make_stamps.py stamps.deb.d/usr/share/tuxpaint/stamps photos

They are GPL-2 (the whole package), so they are made where they are needed and never kept in this repository. Drawings and
mirrored copies are left out. Which photo falls into which split is decided by the SHA-256 of its pixels: the same everywhere.
"""

import hashlib
import sys
from pathlib import Path

from PIL import Image

COINS = ("canadian/coins", "euro/coins", "us/coins", "japanese")
CLASSES = {
    "bird": ("animals/birds",),
    "coin": tuple(f"symbols/money/{where}" for where in COINS),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "mammal": ("animals/mammals",),
    "roadsign": ("town/roadsigns",),
    "vegetable": ("food/vegetables",),
}
DRAWN = {"cartoon", "toys", "plastic"}
SIDE = 224
SHARE = 0.15
"""Of valid, and of test."""


def stamps(root: Path, folders: tuple[str, ...]) -> dict[str, Image.Image]:
    """Name → photo, cut out and put on white."""
    found = {}
    for folder in folders:
        for path in sorted((root / folder).rglob("*.png")):
            place = path.relative_to(root / folder)
            if not DRAWN & set(place.parts) and not path.stem.endswith(("_mirror", "_flip")):
                found["-".join([*Path(folder).parts, *place.with_suffix("").parts])] = on_white(Image.open(path))
    return found


def on_white(stamp: Image.Image) -> Image.Image:
    """SIDE × SIDE RGB: the opaque part of `stamp` in the middle, nine tenths as long as the square."""
    cut = stamp.convert("RGBA")
    cut = cut.crop(cut.getchannel("A").getbbox())
    factor = 0.9 * SIDE / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * factor)), max(1, round(cut.height * factor))), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    square.paste(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2), cut)
    return square


def split(photos: dict[str, Image.Image]) -> dict[str, str]:
    """Name → train, valid or test; of equal pictures only the first by name."""
    by_digest: dict[str, str] = {}
    for name in sorted(photos):
        by_digest.setdefault(hashlib.sha256(photos[name].tobytes()).hexdigest(), name)
    ranked = [by_digest[digest] for digest in sorted(by_digest)]
    held = max(1, round(SHARE * len(ranked)))
    places = ["valid"] * held + ["test"] * held + ["train"] * (len(ranked) - 2 * held)
    return dict(zip(ranked, places, strict=True))


def main(root: Path, out: Path) -> None:
    """Raises SystemExit where `root` does not hold the stamps."""
    for class_name, folders in CLASSES.items():
        photos = stamps(root, folders)
        if len(photos) < 10:
            raise SystemExit(
                f"{root} holds {len(photos)} stamps of {class_name}: name the folder tuxpaint/stamps of the package"
            )
        for name, place in split(photos).items():
            folder = out / place / class_name
            folder.mkdir(parents=True, exist_ok=True)
            photos[name].save(folder / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
