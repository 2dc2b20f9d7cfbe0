"""The Dockerfile and every shell script, under their linters."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = Path(sys.executable).parent


def shell_scripts() -> list[Path]:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = [ROOT / name for name in tracked]
    return [f for f in files if f.is_file() and f.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))]


@pytest.mark.skipif(not (TOOLS / "shellcheck").exists(), reason="shellcheck is not in this environment: make setup")
def test_shell_scripts() -> None:
    scripts = shell_scripts()
    assert ROOT / ".ci/run" in scripts
    done = subprocess.run([TOOLS / "shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not (TOOLS / "hadolint").exists(), reason="hadolint is not in this environment: make setup")
def test_dockerfile() -> None:
    done = subprocess.run([TOOLS / "hadolint", "--no-color", ROOT / "containers/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shell_scripts_can_be_run() -> None:
    assert [script for script in shell_scripts() if not script.stat().st_mode & 0o111] == []
