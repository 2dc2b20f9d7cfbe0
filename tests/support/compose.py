"""docker compose as a user calls it, in a copy of what docker-compose.yml mounts: nothing is written into the repository."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.machine import ROOT, NoDocker, find_docker
from tests.support.requirement import unavailable


class Project:
    """A folder with docker-compose.yml in it, under a project name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._cli = find_docker().cli
        except NoDocker as reason:
            unavailable(str(reason))

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose ARGUMENTS` there to its end, as somebody would who stands in the folder."""
        kept = {name: value for name, value in os.environ.items() if name not in ("MODEL_DIR", "DATA", "PORT", "CA_BUNDLE")}
        environment = {**kept, "COMPOSE_PROJECT_NAME": f"kennel-test-{self.folder.name}", **environ}
        command = [self._cli, "compose", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=500)


@contextmanager
def project(parent: Path) -> Iterator[Project]:
    folder = parent / uuid.uuid4().hex[:8]
    shutil.copytree(ROOT / "examples" / "sagemaker", folder / "examples" / "sagemaker")
    shutil.copytree(ROOT / "runs" / "demo" / "model", folder / "runs" / "demo" / "model", ignore=_all_but_what_is_committed)
    for file in ROOT.glob("docker-compose*.yml"):
        shutil.copy(file, folder)
    made = Project(folder)
    try:
        yield made
    finally:
        made("--profile", "train", "down", "--volumes")


def _all_but_what_is_committed(_: str, names: list[str]) -> set[str]:
    """A demo may have left its model in the working tree."""
    return set(names) - {".gitignore"}
