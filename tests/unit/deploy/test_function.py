"""The Lambda's zip."""

import io
import os
import zipfile

from deploy.function import HANDLER, SOURCE, zip_directory


def test_the_zip_depends_on_content_only(tmp_path):
    for name in ("b.py", "a.py", "notes.txt"):
        (tmp_path / name).write_text(name)
    first = zip_directory(tmp_path)
    os.utime(tmp_path / "a.py", (0, 0))
    (tmp_path / "a.py").chmod(0o600)
    assert zip_directory(tmp_path) == first
    assert zipfile.ZipFile(io.BytesIO(first)).namelist() == ["a.py", "b.py"]
    (tmp_path / "a.py").write_text("other")
    assert zip_directory(tmp_path) != first


def test_the_handler_is_in_it():
    module = HANDLER.split(".")[0]
    archive = zipfile.ZipFile(io.BytesIO(zip_directory(SOURCE)))
    assert f"{module}.py" in archive.namelist()
    assert len(zip_directory(SOURCE)) < 100_000
