"""Forward compatibility is switched on for older drivers only: what /proc/driver/nvidia/version says, against the library."""

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "containers/core/bin/with-cuda-compat"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Apr  1 00:00:00 UTC 2026\nGCC version:  gcc 11\n"
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)  Tue Apr  1 00:00:00 UTC 2026\n"
)


def library_path(tmp_path: Path, version: str | None, compat: str | None) -> str:
    library = tmp_path / "compat"
    library.mkdir()
    if compat:
        (library / f"libcuda.so.{compat}").touch()
        (library / "libcuda.so.1").symlink_to(f"libcuda.so.{compat}")
    if version:
        (tmp_path / "version").write_text(version)
    environment = {**os.environ, "CUDA_COMPAT_DIR": str(library), "NVIDIA_VERSION_FILE": str(tmp_path / "version")}
    environment["LD_LIBRARY_PATH"] = "/before"
    done = subprocess.run(
        [PROGRAM, "sh", "-c", 'printf %s "$LD_LIBRARY_PATH"'], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("version", "older"),
    [
        (PROPRIETARY.format("470.256.02"), True),
        (PROPRIETARY.format("535.183.01"), True),
        (OPEN.format("550.144.03"), True),
        (PROPRIETARY.format("570.124.06"), False),  # the very same
        (OPEN.format("580.95.05"), False),
        ("something else\n", False),
        (None, False),
    ],
)
def test_the_library_goes_first_only_on_an_older_driver(tmp_path: Path, version: str | None, older: bool) -> None:
    assert library_path(tmp_path, version, "570.124.06") == (f"{tmp_path}/compat:/before" if older else "/before")


def test_without_the_library_nothing_changes(tmp_path: Path) -> None:
    assert library_path(tmp_path, PROPRIETARY.format("470.256.02"), None) == "/before"
