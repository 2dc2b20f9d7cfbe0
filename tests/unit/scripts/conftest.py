"""A docker command that answers as the test says, and a demo whose server is a sleeping process: real programs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import runners


@pytest.fixture
def fake_docker(tmp_path: Path) -> Callable[..., Path]:
    """make(folder, **answers): answers maps the first argument to a shell snippet; other arguments fail. Calls are logged."""

    def make(folder: str = "bin", **answers: str) -> Path:
        cases = "\n".join(f"  {name}) {snippet} ;;" for name, snippet in answers.items())
        program = tmp_path / folder / "docker"
        program.parent.mkdir(exist_ok=True)
        log = program.parent / "calls"
        program.write_text(f'#!/bin/sh\necho "$@" >>{log}\ncase "$1" in\n{cases}\n  *) exit 1 ;;\nesac\n')
        program.chmod(0o755)
        return program

    return make


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runners.Processes:
    """A runner whose server is a sleeping process."""
    monkeypatch.setattr(runners, "SERVER_FILES", tmp_path)
    runner = runners.Processes()
    runner.log = str(tmp_path / "serve.log")
    runner._pid_file = tmp_path / "serve.pid"
    runner._python = tmp_path / "python"
    runner._python.write_text("#!/bin/sh\nexec sleep 60\n")
    runner._python.chmod(0o755)
    return runner
