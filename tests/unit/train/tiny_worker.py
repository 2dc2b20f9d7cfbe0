"""A worker for the launcher's tests: ranks that add numbers instead of training. TINY says how it should go.

work (some steps) · forever (until stopped) · deaf (never stops) · nospace, early (at the stop) · raise<rank> · data<rank>
 kill<rank> · killonce<rank> · abortonce<rank> · aborts (until stopped, and where a peer is lost, as NCCL does)
"""

import json
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

from containers.core import logs
from containers.train import own_process
from containers.train.errors import DataError, Interrupted, NotBegun, Uncommitted
from containers.train.job import TrainingJob

STEP_SECONDS = 0.05


class Group:
    """The stop flag, agreed between ranks; torch is imported only where there is more than one."""

    def __init__(self) -> None:
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if self.world > 1:
            import torch.distributed as dist

            dist.init_process_group("gloo", timeout=timedelta(minutes=5))

    def gather(self, value: object) -> list[object]:
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        seen: list[object] = [None] * self.world
        try:
            dist.all_gather_object(seen, value)
        except RuntimeError:
            if os.environ.get("TINY") == "aborts":
                os.abort()
            raise
        return seen

    def leave(self) -> None:
        if self.world > 1:
            import torch.distributed as dist

            dist.destroy_process_group()


def train() -> int:
    job = TrainingJob.read(Path(sys.argv[1]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    group, restart, how = Group(), os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ.get("TINY", "work")
    logs.configure(rank=group.rank)
    facts = {
        "rank": group.rank,
        "pid": os.getpid(),
        "seen": group.gather((group.rank, job.cluster.current_host)),
        "environment": {name: os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS")},
    }
    (job.paths.output_dir / f"rank{group.rank}.json").write_text(json.dumps(facts))
    logs.get("tiny").info("working")
    if how == f"raise{group.rank}":
        raise ValueError("class folder 'x' is empty, ünïcode" + os.environ.get("TINY_TAIL", ""))
    if how == f"data{group.rank}":
        raise DataError("photo a.jpg cannot be used")
    if how == f"kill{group.rank}" or (how == f"killonce{group.rank}" and restart == "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == f"abortonce{group.rank}" and restart == "0":
        os.abort()
    for _ in range(10**6 if how in ("forever", "deaf", "nospace", "early", "aborts") else 3):
        asked = how != "deaf" and (stop.is_set() or job.paths.stop_file.exists())
        if any(group.gather(asked)) and how == "nospace":
            raise Uncommitted("stopped, and the disk refused the checkpoint")
        if any(group.gather(asked)) and how == "early":
            raise NotBegun("stopped, and there was nothing to keep yet")
        if any(group.gather(asked)):
            (job.paths.checkpoint_dir / f"stopped-{group.rank}").touch()
            raise Interrupted("stopped, and the checkpoint is committed")
        threading.Event().wait(STEP_SECONDS)
    (job.paths.model_dir / f"done-{group.rank}-{restart}").touch()
    group.leave()
    return 0


if __name__ == "__main__":
    sys.exit(own_process.guarded(train))
