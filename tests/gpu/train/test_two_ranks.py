"""Two ranks share the GPU. NCCL refuses that, so their gradients go through gloo; everything else is as with a GPU each:
DDP and its hook, the clock of events, unequal parts, one step at which both stop.
"""

import signal

import pytest

from tests.gpu.train.forked import Rank
from tests.gpu.train.started import learned, newest, wait_at, weights
from tests.support import training
from tests.support.server import free_port

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


def ranks(job, *, waits=False):
    """Two of one job. `waits`: rank 1 does, after its step MIDDLE, until it is asked to stop."""
    port = free_port()
    programs = [GLOO, GLOO + (wait_at(MIDDLE) if waits else "")]
    return [Rank(job, program, rank=rank, world_size=2, port=port) for rank, program in enumerate(programs)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stop_of_one_is_at_one_step_for_both_and_what_they_end_with_is_the_same(tmp_path, index, gpu, precision):
    def job(name):
        settings = {"architecture": "resnet18", "head_epochs": 1, "epochs": 3, "batch_size": 11, "micro_batch_size": 4}
        made = training.make_job(tmp_path / name, index, **settings, precision=precision)
        made = made.model_copy(update={"device": gpu.type})
        made.write()
        return made

    plain, stopped = job("plain"), job("stopped")
    straight, disturbed = ranks(plain), ranks(stopped, waits=True)
    disturbed[1].wait_for("waits").signal(signal.SIGTERM)
    for each in disturbed:
        each.end(expect=75)
    assert newest(stopped.paths.checkpoint_dir)["progress"]["step"] in (MIDDLE + 1, MIDDLE + 2)  # agreed one poll later
    for each in straight:
        each.end()
    rows = straight[0].logged("epoch")
    assert [row["world_size"] for row in rows] == [2, 2, 2, 2]
    assert all(0 <= row["comm_wait_fraction"] <= 1 for row in rows)
    for each in ranks(stopped):
        each.end()
    assert training.same(learned(stopped), learned(plain))
    assert weights(stopped) == weights(plain)
