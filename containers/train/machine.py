"""Is this machine fit for the job: disk, GPU, the other hosts' names. Found in seconds, before any worker.

Shared memory is looked at where its use is planned (`data.plan_loader`).
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from containers.core import logs
from containers.core.errors import AcceleratorError, ConfigError
from containers.core.host import host_shows_gpu
from containers.train.errors import PeerLost
from containers.train.job import Cluster, JobPaths

log = logs.get(__name__)

LEAST_BYTES = 64 << 20
"""Of any job: with less, a disk counts as full. What this one needs is known when its model is built (`room`)."""
RESOLVE_SECONDS = 300.0
LOOK_SECONDS = 180.0
"""Torch's import and a look at all GPUs; a driver that hangs never answers."""
_LOOK = r"""
import json, sys, torch
from containers.core import accelerator, errors
try:
    print(json.dumps([accelerator.detect(sys.argv[1], local_rank=gpu).name for gpu in range(torch.cuda.device_count() or 1)]))
except errors.AcceleratorError as error:
    sys.exit(str(error))
except RuntimeError as error:
    sys.exit("torch cannot use the GPU: " + str(error).partition("\n")[0])
"""


def check_disk(paths: JobPaths, *, checkpoints: int = LEAST_BYTES, model: int = LEAST_BYTES) -> None:
    """Raises ConfigError naming the folder whose file system has no room for so many bytes of checkpoints and model.

    What the job has there already counts as room: it is pruned or replaced.
    """
    needed: dict[int, int] = defaultdict(int)
    for folder, most, ours in (
        (paths.checkpoint_dir, checkpoints, ("checkpoint-*.pt", "base-*.pt")),
        (paths.model_dir, model, ("weights.safetensors", "engines/*")),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        disk = folder.stat().st_dev
        needed[disk] += max(0, most - sum(path.stat().st_size for pattern in ours for path in folder.glob(pattern)))
        free = shutil.disk_usage(folder).free
        if free < needed[disk]:
            raise ConfigError(
                f"{folder} has {free >> 20} MB free and training needs {needed[disk] >> 20}: "
                "make room, or choose another folder"
            )


def check_accelerator(device: str) -> int:
    """How many GPUs torch has here; 0 on a CPU. Torch is loaded in another process, and only for a GPU.

    Raises AcceleratorError where one of the host's GPUs cannot be used.
    """
    if device == "cpu" or (device == "auto" and not host_shows_gpu()):
        return 0
    command = [sys.executable, "-c", _LOOK, device]
    out, err, code = _output(command)
    if code:
        lines = err.strip().splitlines() or [f"torch ended with code {code} while looking for a GPU"]
        raise AcceleratorError(lines[-1])
    names: list[str] = json.loads(out.splitlines()[-1])
    log.info("accelerator", extra={"device": ", ".join(sorted(set(names))), "gpus": len(names)})
    return len(names)


def _output(command: list[str]) -> tuple[str, str, int]:
    """(stdout, stderr, exit code). Raises AcceleratorError after LOOK_SECONDS."""
    looking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        return *looking.communicate(timeout=LOOK_SECONDS), looking.returncode
    except subprocess.TimeoutExpired:
        looking.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            looking.communicate(timeout=1.0)  # no longer: who hangs in a driver's call does not even die
        raise AcceleratorError(
            f"the GPU's driver did not answer within {LOOK_SECONDS:.0f} s: restart this host, or take another"
        ) from None


def check_processes(cluster: Cluster, gpus: int) -> None:
    """Raises ConfigError where processes of this host were to share its GPUs; on a CPU there may be any number.

    In preflight already, and not only where they are started: the other hosts would gather for half an hour with one that has
    ended.
    """
    if 0 < gpus < cluster.processes_per_host:
        raise ConfigError(
            f"--processes-per-host is {cluster.processes_per_host} and host {cluster.current_host} has {gpus} GPU(s): "
            "a process needs one of its own; leave the flag out, or give each host its own number"
        )


def check_compiler(gpus: int, *, which: Callable[[str], str | None] = shutil.which) -> None:
    """What torch_compile needs beside torch: for a GPU triton, which wants a C compiler; for a CPU a C++ compiler and torch's
    headers, which Kennel's images do without; for both Python's. Raises ConfigError naming what this host lacks.
    """
    part, variable, names = ("triton", "CC", ["gcc", "clang"]) if gpus else ("torch.include", "CXX", ["g++"])
    chosen = os.environ.get(variable)
    said = (
        f"{variable} names {chosen}, which is not on PATH" if chosen else f"{' or '.join(names)}; {variable} may name another"
    )
    lacking = [] if _is_installed(part) else [part]
    lacking += [] if any(map(which, [chosen] if chosen else names)) else [f"a compiler ({said})"]
    lacking += [] if Path(sysconfig.get_path("include"), "Python.h").exists() else ["Python.h (Debian: python3-dev)"]
    if lacking:
        remedy = "build the train image with COMPILE=1" if gpus else "install them (Kennel's images compile for GPUs only)"
        raise ConfigError(f"torch_compile needs {' and '.join(lacking)}: {remedy}, or set torch_compile to false")
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or gettempdir()
    triton = os.environ.get("TRITON_CACHE_DIR") or cache  # torch 2.10, _inductor/runtime/cache_dir_utils.py
    for variable, place in (("TORCHINDUCTOR_CACHE_DIR", cache), *[("TRITON_CACHE_DIR", triton)] * bool(gpus)):
        folder = next(filter(Path.exists, (Path(place), *Path(place).absolute().parents)))
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            remedy = f"mount it with exec (docker: --tmpfs /tmp:exec), or name another place with {variable}"
            raise ConfigError(f"torch_compile loads modules from {folder}, which is mounted noexec: {remedy}")


def _is_installed(name: str) -> bool:
    """A package, or a folder of one that holds no modules. Does not import it."""
    package, _, folder = name.partition(".")
    found = importlib.util.find_spec(package)
    return found is not None and (not folder or Path(str(found.origin)).with_name(folder).is_dir())


def check_hosts(cluster: Cluster, min_hosts: int) -> None:
    """Raises ConfigError where more hosts must be left than there are."""
    if len(cluster.hosts) > 1 and min_hosts > len(cluster.hosts):
        raise ConfigError(f"min_hosts is {min_hosts} and the job has {len(cluster.hosts)} hosts: lower it, or start more hosts")


def resolve_peers(
    cluster: Cluster,
    seconds: float = RESOLVE_SECONDS,
    *,
    resolve: Callable[[str, None], Sequence[Any]] = socket.getaddrinfo,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until every host's name resolves: on SageMaker they do so some time after the start. Raises PeerLost."""
    deadline, delay = clock() + seconds, 0.1
    for host in cluster.hosts if len(cluster.hosts) > 1 else ():
        while True:
            try:
                resolve(host, None)
                break
            except socket.gaierror as error:
                if clock() > deadline:
                    raise PeerLost(f"the name of host {host} did not resolve within {seconds:.0f} s ({error})") from error
                log.info("waiting for a host's name", extra={"peer": host})
                pause(delay)
                delay = min(delay * 2, 10.0)
