"""Is this machine fit for the job: disk, GPU, the other hosts' names. Found in seconds, before any worker.

Shared memory is looked at where its use is planned (`data.plan_loader`).
"""

import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
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

    Raises AcceleratorError where the host's GPU cannot be used.
    """
    if device == "cpu" or (device == "auto" and not host_shows_gpu()):
        return 0
    program = "import sys, torch\nfrom containers.core import accelerator, errors\n"
    program += "try: print(torch.cuda.device_count(), accelerator.detect(sys.argv[1]).name)\n"
    program += "except errors.AcceleratorError as error: sys.exit(str(error))\n"
    program += "except RuntimeError as error: sys.exit('torch cannot use the GPU: ' + str(error).partition('\\n')[0])\n"
    found = subprocess.run([sys.executable, "-c", program, device], capture_output=True, text=True, check=False)  # noqa: S603
    if found.returncode:
        lines = found.stderr.strip().splitlines() or [f"torch ended with code {found.returncode} while looking for a GPU"]
        raise AcceleratorError(lines[-1])
    gpus, _, name = found.stdout.strip().splitlines()[-1].partition(" ")
    log.info("accelerator", extra={"device": name, "gpus": int(gpus)})
    return int(gpus)


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
