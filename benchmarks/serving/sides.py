"""Who is measured, how each is started, and the virtual environment that the peers get.

"documented": as the peer's own documentation starts it (torch's default threads). "tuned": one worker with one thread per core,
the setting that was best for every one of them on a CPU.
"""

import os
import socket
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import load, machine

PACKAGES = {"byoc": ["gevent"], "fastapi": ["fastapi", "uvicorn"], "litserve": ["litserve"], "bentoml": ["bentoml"]}
_BOUNDARY = "photo-boundary"


@dataclass(frozen=True, kw_only=True)
class Side:
    """`command` may hold {port}, {cores}, {model} and {python}. `form`: takes the photo as a form's file."""

    name: str
    peer: str
    engine: str
    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    form: bool = False
    ping: str = "/ping"

    def start(self, subject: Path, python: Path, logs: Path) -> machine.Server:
        port = _free_port()
        cores = len(os.sched_getaffinity(0))
        words = {"port": port, "cores": cores, "model": subject / "model", "python": python}
        environ = {key: value.format(**words) for key, value in self.environ.items()}
        environ |= {
            "MODEL_DIR": str(subject / "model"),
            "ENGINE": self.engine,
            "PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [word.format(**words) for word in self.command]
        return machine.start(command, environ, port=port, ping=self.ping, cwd=Path.cwd(), log=logs / f"{self.name}.log")

    def requests(self, photos: list[bytes]) -> list[bytes]:
        if not self.form:
            return [load.request("/invocations", photo, "image/jpeg") for photo in photos]
        part = 'Content-Disposition: form-data; name="photo"; filename="a.jpg"\r\nContent-Type: image/jpeg'
        head = f"--{_BOUNDARY}\r\n{part}\r\n\r\n"
        tail = f"\r\n--{_BOUNDARY}--\r\n"
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return [load.request("/invocations", head.encode() + photo + tail.encode(), kind) for photo in photos]


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_GUNICORN = (
    "{python}",
    "-m",
    "gunicorn",
    "-w",
    "{cores}",
    "--timeout",
    "120",
    "-b",
    "127.0.0.1:{port}",
    "--log-level",
    "error",
)
_UVICORN = ("{python}", "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "error", "--no-access-log")
_LITSERVE = ("{python}", "-m", "benchmarks.serving.peers.litserve_app")
_BENTOML = ("{python}", "-m", "bentoml", "serve", "benchmarks.serving.peers.bentoml_app:Service")
_BENTOML_FLAGS = ("--host", "127.0.0.1", "--port", "{port}")
_BENTOML_ENVIRON = {"BENTOML_DO_NOT_TRACK": "1"}


def kennel(engine: str, suffix: str = "") -> Side:
    module = "benchmarks.serving.modelless_server" if engine == "none" else "containers.serve"
    command = (sys.executable, "-m", module, "--model-dir", "{model}", "--host", "127.0.0.1", "--port", "{port}")
    environ = {"SERVE_ENGINE": engine, "SERVE_DEVICE": "cpu"}
    return Side(name=f"kennel {engine}{suffix}", peer="", engine=engine, command=command, environ=environ)


def documented() -> list[Side]:
    """Every peer with eager torch, as its users run it."""
    flask = (*_GUNICORN, "-k", "gevent", "benchmarks.serving.peers.byoc:app")
    return [
        Side(name="byoc documented", peer="byoc", engine="eager", command=flask),
        Side(
            name="fastapi documented",
            peer="fastapi",
            engine="eager",
            command=(*_UVICORN, "benchmarks.serving.peers.fastapi_app:app"),
        ),
        Side(
            name="litserve documented", peer="litserve", engine="eager", command=_LITSERVE, environ={"WORKERS": "1"}, form=True
        ),
        Side(
            name="bentoml documented",
            peer="bentoml",
            engine="eager",
            command=(*_BENTOML, *_BENTOML_FLAGS),
            environ={"WORKERS": "1", **_BENTOML_ENVIRON},
            form=True,
            ping="/readyz",
        ),
    ]


def tuned(engine: str, peers: tuple[str, ...] = ("byoc", "fastapi", "litserve", "bentoml")) -> list[Side]:
    """Every peer with one single-threaded worker per core, running `engine`."""
    environ = {"WORKERS": "{cores}", **_ONE_THREAD}
    uvicorn = (*_UVICORN, "--workers", "{cores}", "benchmarks.serving.peers.fastapi_app:app")
    rows: dict[str, tuple[tuple[str, ...], bool, str]] = {
        "byoc": ((*_GUNICORN, "-k", "sync", "benchmarks.serving.peers.byoc:app"), False, "/ping"),
        "fastapi": (uvicorn, False, "/ping"),
        "litserve": (_LITSERVE, True, "/ping"),
        "bentoml": ((*_BENTOML, *_BENTOML_FLAGS), True, "/readyz"),
    }
    return [
        Side(
            name=f"{peer} tuned {engine}",
            peer=peer,
            engine=engine,
            command=rows[peer][0],
            environ={**environ, **_BENTOML_ENVIRON},
            form=rows[peer][1],
            ping=rows[peer][2],
        )
        for peer in peers
    ]


def install_peers(directory: Path) -> tuple[Path, dict[str, str]]:
    """A virtual environment over this one's packages (one torch for all). Returns its python and what is not to be had."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
        own, theirs = sysconfig.get_path("purelib"), Path(_ask(python, "purelib"))
        (theirs / "shared.pth").write_text(own + "\n")
    absent = {}
    for peer, packages in PACKAGES.items():
        command = [str(python), "-m", "pip", "install", "--quiet", *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            absent[peer] = done.stderr.strip().splitlines()[-1][:200]
    return python, absent


def _ask(python: Path, name: str) -> str:
    code = f"import sysconfig; print(sysconfig.get_path({name!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
