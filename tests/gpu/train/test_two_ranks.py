"""Two ranks share the GPU. NCCL refuses that, so their gradients go through gloo; everything else is as with a GPU each:
DDP and its hook, the clock of events, unequal parts, one step at which both stop.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.gpu.train.started import learned, newest, python_path, wait_at
from tests.support import training
from tests.support.server import free_port, until

STEPS = 4
"""An epoch: 40 photos, 11 at once, of which rank 0 has 6 and in the last step 4 of 7."""
MIDDLE = 2 * STEPS + 1
"""A step of the second epoch of phase 2, after one of the head."""
GLOO = """
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

join = dist.init_process_group

def joined(backend=None, *, device_id=None, **named):
    join("gloo", **named)

def reduced(group, bucket):  # gloo's future does not wait for its own copy back to the GPU
    tensor = bucket.buffer().div_(dist.get_world_size())
    dist.all_reduce(tensor)
    done = torch.futures.Future()
    done.set_result(tensor)
    return done

dist.init_process_group, default_hooks.allreduce_hook = joined, reduced
"""


class Ranks:
    """Two workers of one job. `waits`: rank 1 does, after its step MIDDLE, until it is asked to stop."""

    def __init__(self, job, folder, *, waits=False):
        folder.mkdir(parents=True)
        self._logs, self.processes = [folder / f"rank{rank}.log" for rank in (0, 1)], []
        port = str(free_port())
        for rank, log in enumerate(self._logs):
            program = GLOO + (wait_at(MIDDLE) if waits and rank == 1 else "")
            environment = os.environ | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
                "PYTHONPATH": python_path(folder / f"custom{rank}", program),
            }  # fmt: skip
            command = [sys.executable, "-u", "-m", "containers.train.worker", str(job.paths.job_file)]
            with log.open("w") as out:
                self.processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))

    @property
    def out(self):
        return "\n".join(log.read_text() for log in self._logs)

    def logged(self, event):
        lines = [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def end(self, expect=0):
        try:
            assert [process.wait(training.DEADLINE) for process in self.processes] == [expect, expect], self.out
        finally:
            for process in self.processes:
                process.kill()
        return self


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stop_of_one_is_at_one_step_for_both_and_what_they_end_with_is_the_same(tmp_path, index, gpu, precision):
    def job(name):
        settings = {"architecture": "resnet18", "head_epochs": 1, "epochs": 3, "batch_size": 11, "micro_batch_size": 4}
        return training.make_job(tmp_path / name, index, **settings, precision=precision).model_copy(
            update={"device": gpu.type}
        )

    plain, stopped = job("plain"), job("stopped")
    for each in (plain, stopped):
        each.write()
    straight = Ranks(plain, tmp_path / "first").end()
    rows = straight.logged("epoch")
    assert [row["world_size"] for row in rows] == [2, 2, 2, 2]
    assert all(0 <= row["comm_wait_fraction"] <= 1 for row in rows)
    ranks = Ranks(stopped, tmp_path / "second", waits=True)
    until(lambda: '"waits"' in ranks.out or any(process.poll() is not None for process in ranks.processes), "rank 1's wait")
    ranks.processes[1].send_signal(signal.SIGTERM)
    ranks.end(expect=75)
    assert newest(stopped.paths.checkpoint_dir)["progress"]["step"] in (MIDDLE + 1, MIDDLE + 2)  # agreed one poll later
    Ranks(stopped, tmp_path / "third").end()
    ended = [learned(newest(each.paths.checkpoint_dir)) for each in (plain, stopped)]
    assert training.same(*ended)
    weights = [(each.paths.model_dir / "weights.safetensors").read_bytes() for each in (plain, stopped)]
    assert weights[0] == weights[1]
