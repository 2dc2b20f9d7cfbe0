"""A compiled function or a decoder that does not answer as Pillow does is not used; without them Pillow does the work."""

import shutil
import subprocess
import sys

import pytest
import simplejpeg

from containers.core import build_native, fast_jpeg
from containers.core.preprocessing import PreprocessSpec, decode, prepare
from tests.support.scenes import jpeg

pytestmark = pytest.mark.skipif(
    bool(build_native.build()) and not fast_jpeg.LIBRARY.exists(), reason="there is no C compiler to build resample.c with"
)


def test_a_function_that_rounds_otherwise_is_not_used():
    good = fast_jpeg.load()

    def off_by_one(photo, width, height, box, size, cubic, out):
        code = good(photo, width, height, box, size, cubic, out)
        out[0, 0, 0] ^= 1
        return code

    assert fast_jpeg._as_pillow(good)
    assert not fast_jpeg._as_pillow(off_by_one)


def test_a_decoder_that_rounds_otherwise_is_not_used(monkeypatch):
    good = simplejpeg.decode_jpeg

    def coarse(data, **options):
        return good(data, **options, fastdct=True)

    def unsmoothed(data, **options):
        return good(data, **options, fastupsample=True)

    assert fast_jpeg.load.__wrapped__() is not None
    for other in (coarse, unsmoothed):
        monkeypatch.setattr(simplejpeg, "decode_jpeg", other)
        assert fast_jpeg.load.__wrapped__() is None


def test_a_library_with_other_arguments_is_not_called(tmp_path, monkeypatch):
    """It was compiled before the last change of them, and `make setup` was not run since."""
    source = tmp_path / "resample.c"
    known = fast_jpeg.SYMBOL
    source.write_text(build_native.SOURCE.read_text().replace(known, known.rpartition("_")[0]))
    assert known not in source.read_text()
    assert build_native.build(source, tmp_path / "old.so") == ""
    monkeypatch.setattr(fast_jpeg, "LIBRARY", tmp_path / "old.so")
    assert fast_jpeg.load.__wrapped__() is None


@pytest.mark.parametrize("off", ["+ 1", "- 1"])
def test_a_function_that_takes_the_passes_in_another_order_is_not_used(tmp_path, monkeypatch, off):
    """Columns come first for tall photos: at size 20 a photo of 30 x 40 is not tall, and one of 30 x 41 is."""
    rule = "height - size > 2 * (width - size)"
    other = f"{rule} {off}"
    source = tmp_path / "resample.c"
    source.write_text(build_native.SOURCE.read_text().replace(rule, other))
    assert other in source.read_text()
    assert build_native.build(source, tmp_path / "other.so") == ""
    monkeypatch.setattr(fast_jpeg, "LIBRARY", tmp_path / "other.so")
    assert fast_jpeg.load.__wrapped__() is None


def test_without_the_compiled_file_pillow_does_the_work(tmp_path):
    """In a process of its own: what is loaded stays loaded."""
    spec = PreprocessSpec()
    package = tmp_path / "containers"
    shutil.copytree(fast_jpeg.LIBRARY.parent, package / "core", ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
    (package / "__init__.py").touch()
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    code = (
        "import sys; from containers.core import fast_jpeg, preprocessing as p; assert fast_jpeg.load() is None;"
        "sys.stdout.buffer.write(p.preprocess(open('photo.jpg', 'rb').read(), p.PreprocessSpec()).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == prepare(decode(jpeg(), spec), spec).tobytes(), done.stderr.decode()
