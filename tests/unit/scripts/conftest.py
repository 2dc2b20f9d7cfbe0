"""A docker command that answers as the test says: a real program on a PATH of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest


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
