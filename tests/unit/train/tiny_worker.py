"""A worker for the launcher's tests: gloo, no model. What it does is said in the environment."""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from containers.core import logs
from containers.train import failure
from containers.train.errors import RESUMABLE, DataError
from containers.train.job import TrainingJob

stop = False


def on_stop(*_: object) -> None:
    global stop
    stop = True


def train() -> int:
    job = TrainingJob.read(Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, on_stop)
    rank, restart = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    logs.configure(rank=rank)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    world = dist.get_world_size()
    seen: list[object] = [None] * world
    dist.all_gather_object(seen, (rank, job.cluster.current_host))
    facts = {
        "rank": rank,
        "world": world,
        "seen": seen,
        "pid": os.getpid(),
        "restart": restart,
        "ifname": os.environ.get("GLOO_SOCKET_IFNAME"),
        "threads": os.environ["OMP_NUM_THREADS"],
    }
    target = job.paths.output_dir / f"rank{rank}-{restart}.json"
    target.with_suffix(".tmp").write_text(json.dumps(facts))
    target.with_suffix(".tmp").rename(target)
    what = os.environ.get("TINY", "work")
    if what == f"raise{rank}":
        raise ValueError("class folder 'x' is empty ünïcode " + "é" * 2000)
    if what == f"data{rank}":
        raise DataError("photo a.jpg cannot be used")
    if what == f"kill{rank}" or (what == f"killonce{rank}" and restart == "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    steps = 10**6 if what in ("forever", "deaf") else 3
    flag = torch.zeros(1)
    for _ in range(steps):
        flag[0] = float((stop and what != "deaf") or (job.paths.stop_file.exists() and what != "deaf"))
        dist.all_reduce(flag)
        if flag.item():
            (job.paths.checkpoint_dir / f"stopped-{rank}").touch()
            return RESUMABLE
        time.sleep(0.05)
    (job.paths.model_dir / f"done-{rank}").touch()
    return 0


if __name__ == "__main__":
    sys.exit(failure.guarded(train))
