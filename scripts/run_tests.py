"""make test: every kind of test this machine can run. Standard library only.

What the machine lacks is a skip with its reason, listed at the end of each run. KENNEL_REQUIRE_DOCKER=1 (CI)
makes a missing engine, image or package a failure.
"""

import os
import subprocess
import sys
from pathlib import Path

from scripts import environment, images
from scripts.machine import ROOT, Command, NoDocker, Stop, find_docker, say

LOCAL_MODE = "tests/local_mode"


def main() -> int:
    required = os.environ.get("KENNEL_REQUIRE_DOCKER") == "1"
    try:
        python = environment.ensure(ROOT / ".venv", ["all"])
        try:
            images.build(find_docker())
            docker_missing = None
        except (NoDocker, images.NoBase) as reason:
            if required:
                raise Stop(f"container tests are required, but {reason}") from reason
            docker_missing = str(reason)
        statuses = []
        if docker_missing is None:
            sdk_python = environment.ensure(ROOT / ".venv-local", ["local"])
            statuses.append(_pytest("Tests under the SageMaker SDK's local mode", sdk_python, LOCAL_MODE))
        others = ["tests", "--ignore", LOCAL_MODE]
        statuses.append(_pytest("Container tests", python, *others, "-m", "docker"))  # one at a time: they share the engine
        statuses.append(_pytest("All other tests", python, *others, "-m", "not docker", "-n", "2"))
    except Stop as problem:
        print(f"\nmake test: {problem}", file=sys.stderr)
        return 1
    if docker_missing:
        print(f"\nNot run: {LOCAL_MODE} and container tests, as {docker_missing}")
    return int(any(statuses))  # a run that was killed has a negative one


def _pytest(title: str, python: Path, *arguments: str) -> int:
    say(title)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # bin/train and bin/serve start `python`, as in the images
    command: Command = [python, "-m", "pytest", "-q", "--durations", "12", *arguments]
    return subprocess.run(list(map(str, command)), check=False, cwd=ROOT, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    raise SystemExit(main())
