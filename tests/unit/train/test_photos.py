"""Every kind of file that people keep among their photos."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from containers.train import photos
from tests.unit.train.jobs import photo


def test_a_good_photo(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", seed=1, size=(64, 48))
    facts = photos.inspect(path)
    assert (facts.width, facts.height, facts.problem, facts.traits) == (64, 48, None, ())
    assert facts.bytes == path.stat().st_size
    assert len(facts.sha256) == 64


def test_a_truncated_jpeg_is_found(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", seed=1, size=(200, 200))
    path.write_bytes(path.read_bytes()[:-100])
    assert photos.inspect(path).problem is not None


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xe0", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_photo(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    problem = photos.inspect(tmp_path / "a.jpg").problem
    assert problem is not None
    assert "BytesIO" not in problem, "people know the file by its path"


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert photos.inspect(tmp_path / "gone.jpg").problem == "cannot be read (No such file or directory)"


def test_traits_are_counted_and_harmless(tmp_path: Path) -> None:
    photo(tmp_path / "cmyk.jpg", 1, (64, 64), "CMYK")
    photo(tmp_path / "grey.png", 1, (64, 64), "L")
    photo(tmp_path / "alpha.png", 1, (64, 64), "RGBA")
    photo(tmp_path / "tiny.png", 1, (8, 64))
    photo(tmp_path / "palette.gif", 1, (64, 64), "P")
    Image.fromarray(np.full((64, 64), 40000, dtype=np.uint16)).save(tmp_path / "wide.png")
    rotated = Image.new("RGB", (64, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "turned.jpg", exif=exif)
    rotated.save(tmp_path / "garbled.jpg", exif=b"Exif\0\0no TIFF header")
    buffer = io.BytesIO()
    rotated.save(buffer, "PNG")
    (tmp_path / "really_a_png.jpg").write_bytes(buffer.getvalue())
    found = {path.name: photos.inspect(path) for path in sorted(tmp_path.iterdir())}
    assert all(facts.problem is None for facts in found.values()), found
    assert {name: facts.traits for name, facts in found.items()} == {
        "alpha.png": ("transparent",),
        "cmyk.jpg": ("cmyk",),
        "garbled.jpg": (),
        "grey.png": ("grey",),
        "palette.gif": (),
        "really_a_png.jpg": ("misnamed",),
        "tiny.png": ("tiny",),
        "turned.jpg": ("exif_rotated",),
        "wide.png": ("sixteen_bit",),
    }
    assert (found["turned.jpg"].width, found["turned.jpg"].height) == (64, 40), "as stored"


def test_all_of_them_in_order(tmp_path: Path) -> None:
    paths = [photo(tmp_path / f"{i}.png", seed=i) for i in range(7)]
    (tmp_path / "bad.png").write_bytes(b"x")
    facts = list(photos.inspect_all([*paths, tmp_path / "bad.png"], processes=2))
    assert [each.path for each in facts] == [*paths, tmp_path / "bad.png"]
    assert [each.problem is None for each in facts] == [True] * 7 + [False]
    assert list(photos.inspect_all([], processes=2)) == []
