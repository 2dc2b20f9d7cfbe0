"""A real image registry on loopback (Debian's docker-registry); an engine trusts 127.0.0.0/8 over plain HTTP."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.requirement import unavailable
from tests.support.server import free_port

DEADLINE_SECONDS = 60


def path_with_buildkit() -> str:
    """PATH, led by a docker command that can use BuildKit: up to version 22 it is inside, later it is the buildx plugin."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = Path(folder) / "docker"
        if program.is_file():
            plugin = subprocess.run([program, "buildx", "version"], capture_output=True)
            version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()
            if plugin.returncode == 0 or int(version[2].split(".")[0]) < 23:
                return os.pathsep.join([folder, os.environ["PATH"]])
    return unavailable("no docker command with BuildKit is installed")


@contextmanager
def registry(root: Path, *, user: str = "", password: str = "") -> Iterator[str]:
    """Its `host:port`. With `user`, only that login may pull and push."""
    program = shutil.which("docker-registry")
    if program is None:
        unavailable("docker-registry is not installed")
    host = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "storage")}},
        "http": {"addr": host},
    }
    if user:
        import bcrypt

        (root / "htpasswd").write_bytes(user.encode() + b":" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)) + b"\n")
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(root / "htpasswd")}}
    (root / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
    process = subprocess.Popen([program, "serve", str(root / "registry.yml")], stderr=subprocess.DEVNULL)
    try:
        _until_it_listens(host, process)
        yield host
    finally:
        process.terminate()
        process.wait()


def _until_it_listens(host: str, process: subprocess.Popen) -> None:
    address, port = host.split(":")
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection((address, int(port)), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the registry does not listen on {host}; exit code {process.poll()}")
