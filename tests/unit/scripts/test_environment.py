import re
import sys
from importlib.metadata import requires
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


def test_an_environment_for_development_is_one_for_the_demo_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """make demo after make setup: nothing is installed again."""
    stamps = tmp_path / "kennel-locks"
    stamps.mkdir()
    (stamps / "all").write_text(environment._digest(environment.REQUIREMENTS / "all.lock"))
    assert environment.ensure(tmp_path, ["train", "serve"]) == tmp_path / "bin" / "python"
    monkeypatch.setattr(environment, "check_disk", _installs)
    for stamp, locks in (("all", ["train", "local"]), ("older than the lock", ["train", "serve"])):
        if stamp != "all":
            (stamps / "all").write_text(stamp)
        with pytest.raises(Stop, match="would install"):
            environment.ensure(tmp_path, locks)


def test_what_a_demo_installed_is_not_downloaded_again_for_development(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_more(*_: object) -> Path:
        raise Stop("the installer")

    monkeypatch.setattr(environment, "bootstrap", nothing_more)
    said = []
    for held in ([], ["train", "serve"]):
        stamps = tmp_path / f"venv{len(held)}" / "kennel-locks"
        stamps.mkdir(parents=True)
        for name in held:
            (stamps / name).write_text(environment._digest(environment.REQUIREMENTS / f"{name}.lock"))
        with pytest.raises(Stop, match="the installer"):
            environment.ensure(stamps.parent, ["all"])
        said.append(re.findall(r"up to ([\d.]+) GB to download, ([\d.]+) GB on disk", capsys.readouterr().out))
    assert said == [[("4.0", "7.2")], [("0.2", "0.4")]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert environment.main([str(tmp_path / "file" / "venv"), "tools"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"{tmp_path}/file/venv/kennel-locks/all cannot be used (Not a directory): let this user ")


def _installs(*_: object) -> None:
    raise Stop("would install")


def test_everything_holds_what_each_deployable_needs() -> None:
    def pinned(name: str) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9._-]+==[^ ;\\\n]+", (environment.REQUIREMENTS / f"{name}.lock").read_text(), re.M))

    assert len(pinned("train")) > 20
    assert [name for name in environment.IN_ALL if not pinned(name) <= pinned("all")] == []


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("somebody's")
    with pytest.raises(Stop, match=r"was not made by Kennel.*move it away"):
        environment.bootstrap(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("pyvenv.cfg", "somebody's")]


@pytest.mark.parametrize("held", [[], ["kennel-locks"], ["kennel-locks", "half"]])
def test_an_empty_folder_and_one_of_ours_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: list[str]
) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\necho "made $*"\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    for name in held:
        (tmp_path / "venv" / name).mkdir(parents=True)
    with pytest.raises(Stop, match="made -m venv --clear"):
        environment.bootstrap(tmp_path / "venv")


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


def test_the_compiler_is_the_one_torch_asks_for_and_in_no_other_lock() -> None:
    """Inductor works with one triton only; the overrides leave it out wherever it is not asked for by name."""
    locks = {path.stem: path.read_text() for path in environment.REQUIREMENTS.glob("*.lock")}
    (wanted,) = [need.partition(";")[0] for need in requires("torch") or [] if need.startswith("triton")]
    assert f"\n{wanted} \\\n" in locks["compile"]
    assert [name for name, text in locks.items() if "\ntriton==" in text] == ["compile"]
    assert locks["compile"].partition("\nziglang")[2] == locks["native"].partition("\nziglang")[2], "two compilers"
