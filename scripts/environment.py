"""Virtual environments from the hash-locked requirements, by the pinned uv. Standard library only.

    python3 -m scripts.environment .venv all            what make setup does
    python3 -m scripts.environment .venv-local local

The installer's cache and the environment share a file system, so that files are hard links and stand on the disk once.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.machine import GB, ROOT, Command, Stop, check_disk, output, refused, run, say

REQUIREMENTS = ROOT / "requirements"
# lock → (download, on disk) in bytes, measured with an empty cache; serve's is what it adds to train's
SIZES = {"all": (4.0 * GB, 7.2 * GB), "train": (3.8 * GB, 6.7 * GB), "serve": (0.0, 0.1 * GB), "local": (0.3 * GB, 0.9 * GB)}
IN_ALL = ("train", "serve")
STAMPS = "kennel-locks"
"""In an environment of ours: for each lock that it holds, a file with that lock's SHA-256."""


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def ensure(venv: Path, locks: Sequence[str]) -> Path:
    """Make `venv` hold what the named locks pin; returns its Python. Does nothing when it already does. Raises Stop."""
    wanted = {name: _digest(REQUIREMENTS / f"{name}.lock") for name in locks}
    stamps = venv / STAMPS
    whole = _read(stamps / "all") == _digest(REQUIREMENTS / "all.lock")  # holds what train.lock and serve.lock pin, too
    if all(_read(stamps / name) == digest or (whole and name in IN_ALL) for name, digest in wanted.items()):
        return python_of(venv)
    download, disk = _sizes(stamps, locks)
    check_disk(venv, int(disk), f"installing the packages in {venv.name}")
    say(f"Installing packages in {venv}: up to {download / GB:.1f} GB to download, {disk / GB:.1f} GB on disk")
    uv = bootstrap(venv)
    files: list[str | Path] = [argument for name in locks for argument in ("-r", REQUIREMENTS / f"{name}.lock")]
    run(
        [uv, "pip", "install", "--python", python_of(venv), "--no-deps", "--require-hashes", *files],
        "the packages could not be installed: check the network, or the package index that pip is configured for",
        env=uv_settings(venv),
    )
    for name, digest in wanted.items():
        (stamps / name).write_text(digest)
    return python_of(venv)


def _sizes(stamps: Path, locks: Sequence[str]) -> tuple[float, float]:
    """(download, on disk) in bytes of what `locks` pin and the environment has not: what a demo installed is in `all`, too."""
    held = [name for name in IN_ALL if _read(stamps / name) == _digest(REQUIREMENTS / f"{name}.lock")]

    def size(part: int) -> float:
        wanted = sum(SIZES[name][part] for name in locks if name not in held)
        return wanted - sum(SIZES[name][part] for name in held if "all" in locks)

    return size(0), size(1)


def bootstrap(venv: Path) -> Path:
    """Make an empty environment with the pinned uv in it, if there is none; returns uv.

    Raises Stop, also where `venv` holds something that is not ours: making it anew would delete that.
    """
    if venv.is_dir() and any(venv.iterdir()) and not (venv / STAMPS).is_dir():
        raise Stop(f"{venv} was not made by Kennel, so nothing is installed there: move it away, or remove it, and try again")
    uv = venv / "bin" / "uv"
    if output([uv, "--version"]) is None:
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=False, capture_output=True, text=True)
        if made.returncode != 0:
            detail = (made.stdout + made.stderr).strip().splitlines() or ["no message"]
            if "ensurepip" in made.stdout + made.stderr:
                raise Stop("python3 cannot make virtual environments: install the package python3-venv")
            raise Stop(f"cannot make the virtual environment {venv}: {detail[-1]}")
        (venv / STAMPS).mkdir()
        pip: Command = [python_of(venv), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run(
            [*pip, "--require-hashes", "-r", REQUIREMENTS / "tools.lock"],
            "uv could not be installed: check the network, or the package index that pip is configured for",
        )
    return uv


def uv_settings(venv: Path) -> dict[str, str]:
    """Environment for uv: a cache beside the environment where the usual one is on another disk, and pip's package index."""
    settings = {"UV_HTTP_TIMEOUT": os.environ.get("UV_HTTP_TIMEOUT", "180")}
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    if "UV_CACHE_DIR" not in os.environ and _device(usual) != _device(venv):
        settings["UV_CACHE_DIR"] = str(ROOT / ".cache" / "uv")
    index = os.environ.get("PIP_INDEX_URL") or output([python_of(venv), "-m", "pip", "config", "get", "global.index-url"])
    if index and "UV_DEFAULT_INDEX" not in os.environ:
        settings["UV_DEFAULT_INDEX"] = index
    return settings


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str]) -> int:
    try:
        ensure(ROOT / arguments[0], arguments[1:])
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    except OSError as problem:
        print(refused(problem, ROOT / arguments[0]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
