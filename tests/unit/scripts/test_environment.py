import sys
from pathlib import Path

import pytest

from scripts import environment
from scripts.machine import Stop


def test_an_environment_that_holds_the_locks_is_left_alone(tmp_path: Path) -> None:
    stamps = tmp_path / "kennel-locks"
    stamps.mkdir()
    (stamps / "tools").write_text(environment._digest(environment.REQUIREMENTS / "tools.lock"))
    before = sorted(tmp_path.rglob("*"))
    assert environment.ensure(tmp_path, ["tools"]) == tmp_path / "bin" / "python"
    assert sorted(tmp_path.rglob("*")) == before


def test_too_little_disk_stops_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.SIZES, "local", (1.0, 1e18))
    with pytest.raises(Stop, match="needs 1000000000 GB"):
        environment.ensure(tmp_path / "venv", ["local"])
    assert not (tmp_path / "venv").exists()


def test_a_python_without_ensurepip_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 'The virtual environment was not created because ensurepip is not available.'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(Stop, match="install the package python3-venv"):
        environment.bootstrap(tmp_path / "venv")


def test_the_cache_stands_beside_the_environment_where_the_usual_one_is_on_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "UV_CACHE_DIR" not in environment.uv_settings(tmp_path / "venv")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    assert environment.uv_settings(tmp_path / "venv")["UV_CACHE_DIR"] == str(environment.ROOT / ".cache" / "uv")


def test_pips_package_index_is_uvs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert environment.uv_settings(tmp_path)["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine.example/simple")
    assert "UV_DEFAULT_INDEX" not in environment.uv_settings(tmp_path)


def test_every_lock_that_is_installed_has_a_size() -> None:
    assert set(environment.SIZES) == {"all", "train", "serve", "local"}
    assert all((environment.REQUIREMENTS / f"{name}.lock").is_file() for name in environment.SIZES)


def test_every_requirement_is_pinned_by_hash() -> None:
    for lock in environment.REQUIREMENTS.glob("*.lock"):
        names = [line for line in lock.read_text().splitlines() if line and not line.startswith((" ", "#"))]
        assert names
        assert all("==" in line for line in names), lock
        assert lock.read_text().count("--hash=sha256:") >= len(names), lock
