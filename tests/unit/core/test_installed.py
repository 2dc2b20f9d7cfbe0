"""What a newcomer sees who forgot the environment: a Python without packages, as the system's is."""

import subprocess
import sys
import venv

import pytest

from containers.core import installed
from scripts.machine import ROOT


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python that has the standard library only."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


PROGRAMS = (
    "containers.train",
    "containers.serve",
    "deploy",
    "tests.conformance",
    "benchmarks.serving",
    "benchmarks.training",
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_python_without_packages_is_told_in_one_line_what_to_do(bare, program):
    done = subprocess.run([bare, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"python -m {program}: {bare} has no ")
    assert "`make setup`" in done.stderr
    assert f".venv/bin/python -m {program} …" in done.stderr


def test_one_that_has_them_goes_on(capsys):
    installed.insist("python -m deploy", "json", "pydantic")
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as end:
        installed.insist("python -m deploy", "json", "no_such_package")
    assert end.value.code == 2
    assert f"{sys.executable} has no no_such_package: " in capsys.readouterr().err
