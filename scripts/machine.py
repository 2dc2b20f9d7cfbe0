"""What this machine offers: a Docker that can build and compose, room on a disk, a free port. Standard library only."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GB = 1_000_000_000
Command = Sequence[str | Path]


class Stop(Exception):
    """One line for the person at the terminal: what is wrong and what to do. Ends the command with exit code 1."""


class NoDocker(Exception):
    """Why containers cannot be used here, as half a sentence."""


def refused(problem: OSError, where: Path) -> str:
    """One line about a file or folder that could not be read or written (`where`, if `problem` names none): which, why, and
    who can change it.
    """
    name = problem.filename or where  # a write that fails does not say to which file
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{name} cannot be written ({problem.strerror}): make room on its disk and try again"
    return f"{name} cannot be used ({problem.strerror or problem}): let this user read it, and write in {ROOT}"


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


def run(command: Command, failure: str, env: Mapping[str, str] | None = None) -> None:
    """Run `command` in the repository's root with its output visible; raises Stop(failure) when it ends with an error."""
    try:
        status = subprocess.run(list(map(str, command)), check=False, cwd=ROOT, env={**os.environ, **(env or {})}).returncode
    except FileNotFoundError as error:
        raise Stop(f"{command[0]} is not installed: {failure}") from error
    if status != 0:
        raise Stop(f"{failure} (exit code {status}; the reason is above)")


def output(command: Command, timeout: float = 20.0) -> str | None:
    """What `command` prints, stripped; None when it fails, is missing or takes longer than `timeout` seconds."""
    try:
        done = subprocess.run(list(map(str, command)), check=False, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@dataclass(frozen=True)
class Docker:
    """A docker command that reaches an engine, builds with BuildKit and has the Compose plugin."""

    cli: Path

    def has_image(self, tag: str) -> bool:
        return output([self.cli, "image", "inspect", "-f", "{{.Id}}", tag]) is not None


def find_docker(path: str | None = None) -> Docker:
    """The first docker command on `path` (default: PATH) that does everything needed. Raises NoDocker with the reason."""
    reason = "there is no docker command here"
    for folder in (path or os.environ.get("PATH", "")).split(os.pathsep):
        found = shutil.which("docker", path=folder)
        if found is None:
            continue
        cli = Path(found)
        client = output([cli, "version", "--format", "{{.Client.Version}}/{{.Server.Version}}"])
        if client is None:
            reason = _no_engine(cli)
        elif int(client.split(".")[0]) >= 23 and output([cli, "buildx", "version"]) is None:
            reason = f"{cli} cannot build (install the package docker-buildx-plugin)"  # newer ones have BuildKit in a plugin
        elif output([cli, "compose", "version"]) is None:
            reason = f"{cli} has no Compose plugin (install the package docker-compose-plugin)"
        else:
            return Docker(cli)
    raise NoDocker(reason)


def _no_engine(cli: Path) -> str:
    """Why no engine answered, as half a sentence: it may be there and not for this user (docker(1): "permission denied …")."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run([cli, "version"], check=False, capture_output=True, text=True, timeout=20).stderr
        if "permission denied" in said.lower():
            return "this user may not use the Docker engine: an administrator adds the user to the group docker"
    return "no Docker engine answers"


def check_disk(folder: Path, needed: int, purpose: str) -> None:
    """Raises Stop unless the file system of `folder` (or of its nearest existing parent) has `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Stop(f"{purpose} needs {needed / GB:.0f} GB on the disk of {folder}, which has {free / GB:.1f} GB: free some")


def check_port(port: int) -> None:
    """Raises Stop unless this port of 127.0.0.1 can be listened on: another program may have it."""
    if not 1 <= port <= 65535:
        raise Stop(f"there is no port {port}: choose one from 1 to 65535 with PORT=")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise Stop(f"port {port} is not for this user ({error.strerror}): choose one from 1024 on with PORT=") from error
        except OSError as error:
            raise Stop(
                f"port {port} is taken ({error.strerror}): stop that program, or choose another port with PORT={port + 1}"
            ) from error
