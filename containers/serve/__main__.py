"""`python -m containers.serve --model-dir DIR`: serve a model directory over HTTP, on a laptop as in the container."""

from containers.core import installed

if __name__ == "__main__":
    installed.insist("python -m containers.serve", "flask", "gunicorn", "numpy")

import argparse
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from containers.core.errors import ConfigError, Error
from containers.serve import child
from containers.serve.signals import Signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after SIGTERM, that of the error otherwise."""
    signals = Signals()  # before the heavy imports: PID 1 has no default action for SIGTERM
    flags = _parse(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's; a process that forks must have one thread
    try:
        metrics = _metrics_folder()
    except Error as error:
        return _refused(error)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
    try:
        return _serve(flags, signals)
    finally:
        shutil.rmtree(metrics, ignore_errors=True)


def _metrics_folder() -> str:
    """A new folder that all processes write their counters to. Raises ConfigError."""
    memory = Path("/dev/shm")  # noqa: S108 - the root may be read-only
    try:
        if chosen := os.environ.get(child.METRICS):
            Path(chosen).mkdir()
            return chosen
        return tempfile.mkdtemp(prefix="kennel-metrics-", dir=memory if os.access(memory, os.W_OK) else None)
    except OSError as error:
        raise ConfigError(
            f"cannot make a folder in memory or on disk ({error.strerror}): make room in /dev/shm, or let this user write "
            "there or to the folder TMPDIR names (docker: --tmpfs /tmp)"
        ) from error


def _refused(error: Error) -> int:
    sys.stderr.write(f"kennel serve: {error.kind}: {error}\n")
    return error.exit_code


def _serve(flags: argparse.Namespace, signals: Signals) -> int:
    from containers.core import fast_jpeg, host, logs
    from containers.serve import sizing
    from containers.serve.config import from_environment
    from containers.serve.supervisor import Supervisor, listen

    logs.configure(process="supervisor", **child.context())
    _raise_open_files()
    try:
        config = from_environment(os.environ, **vars(flags))
        sizes = sizing.derive(config, host.cores(), host.gpus())
        inherited = os.environ.get(child.LISTENER)
        listener = socket.socket(fileno=int(inherited)) if inherited else listen(config.host, config.port)
        supervisor = Supervisor(config, sizes, listener, signals)
    except Error as error:
        return _refused(error)
    address, port = listener.getsockname()[:2]
    logs.get(__name__).info(
        "listening",
        extra={
            "url": f"http://{address}:{port}",
            "port": port,
            "model_dir": str(config.model_dir),
            "fronts": sizes.fronts,
            "slots": sizes.slots,
            "models": list(sizes.devices),
            "quick_jpeg": fast_jpeg.load() is not None,  # else Pillow does it all: the same answers, half as fast
        },
    )
    return supervisor.run()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m containers.serve",
        description="Serve a model directory over HTTP. Every other setting is an environment variable (docs/serving.md).",
    )
    parser.add_argument("--model-dir", metavar="DIR", help="what training wrote (default: /opt/ml/model)")
    parser.add_argument("--host", help="address to listen on (default: 0.0.0.0)")
    parser.add_argument("--port", help="port to listen on (default: 8080)")
    parser.add_argument("--engine", help="auto, or the engine to force")
    parser.add_argument("--device", help="auto, cpu or cuda")
    return parser.parse_args(arguments)


def _raise_open_files() -> None:
    """Slots and connections need one file descriptor each: allow what the host allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
