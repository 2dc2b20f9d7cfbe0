"""make test: every kind of test this machine can run. Standard library only.

What the machine lacks is a skip with its reason, listed at the end of each run. What should have worked and did not (an
image that does not build, packages that cannot be installed) costs the tests that need it, and the exit code.
KENNEL_REQUIRE_DOCKER=1 (CI) makes a missing engine, image or package a failure, before any test.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts import environment, images
from scripts.machine import ROOT, Command, NoDocker, Stop, find_docker, say

LOCAL_MODE = "tests/local_mode"
SDK_VENV = ROOT / ".venv-local"


@dataclass(frozen=True)
class Lack:
    """What cannot be run here and why. `broken`: this machine should have been able to, so make test fails at its end."""

    why: str
    images: bool = True
    broken: bool = True


def main() -> int:
    try:
        python = environment.ensure(ROOT / ".venv", ["all"])
        lack = _lack()
        if lack and os.environ.get("KENNEL_REQUIRE_DOCKER") == "1":
            raise Stop(f"container tests are required, but {lack.why}")
    except Stop as problem:
        print(f"\nmake test: {problem}", file=sys.stderr)
        return 1
    statuses = [int(lack is not None and lack.broken)]
    if lack is None:
        statuses.append(_pytest("Tests under the SageMaker SDK's local mode", environment.python_of(SDK_VENV), LOCAL_MODE))
    others = ["tests", "--ignore", LOCAL_MODE]
    if not (lack and lack.images and lack.broken):  # images of an earlier build would be tested. Without an engine they skip
        statuses.append(_pytest("Container tests", python, *others, "-m", "docker", "-n", "2"))  # many wait for a silent peer
    statuses.append(_pytest("All other tests", python, *others, "-m", "not docker", "-n", "2"))
    if lack:
        print(f"\nNot run: {LOCAL_MODE}{' and container tests' if lack.images else ''}, as {lack.why}")
    return int(any(statuses))  # a run that was killed has a negative one


def _lack() -> Lack | None:
    """Build and install what container tests need; None where all of it is there."""
    try:
        images.build(find_docker())
    except (NoDocker, images.NoBase) as reason:
        return Lack(str(reason), broken=False)
    except Stop as problem:
        return Lack(str(problem))
    try:
        environment.ensure(SDK_VENV, ["local"])
    except Stop as problem:
        return Lack(str(problem), images=False)
    return None


def _pytest(title: str, python: Path, *arguments: str) -> int:
    say(title)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # bin/train and bin/serve start `python`, as in the images
    command: Command = [python, "-m", "pytest", "-q", "--durations", "12", *arguments]
    return subprocess.run(list(map(str, command)), check=False, cwd=ROOT, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    raise SystemExit(main())
