"""NCCL as ranks use it, with a single one: what several do with it beyond that needs several GPUs."""

import os
import subprocess
import sys

from tests.support.server import free_port

PROGRAM = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from containers.core import accelerator
from containers.train import distributed
from containers.train.distributed import Group
from containers.train.communication import CommunicationClock

device = accelerator.detect(sys.argv[1]).device
control, patient = distributed._connect(0, 1, device)
group = Group(0, 1, 0, device, control, patient)
numbers = torch.arange(5.0, device=device)
dist.all_reduce(numbers)
dist.broadcast(numbers, 0)
assert numbers.tolist() == [0, 1, 2, 3, 4]
flag = torch.tensor([2])
dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=group.control)
assert flag.tolist() == [2]
for compress in (False, True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(device)
    rows = torch.randn(8, 6, device=device)
    net(rows).square().mean().backward()
    plain = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad(set_to_none=True)
    clock = CommunicationClock(device, compress)
    network = DistributedDataParallel(
        net, device_ids=[device.index], broadcast_buffers=False, gradient_as_bucket_view=True
    )
    network.register_comm_hook(None, clock.hook)
    with network.no_sync():
        network(rows[:4]).square().sum().backward()
    network(rows[4:]).square().sum().backward()
    clock.backward_done()
    for parameter, gradient in zip(net.parameters(), plain, strict=True):
        assert torch.allclose(parameter.grad / 24, gradient, atol=1e-3 if compress else 1e-6), compress
    assert 0 <= clock.take_seconds() < 60
dist.barrier(group=group.patient)
dist.destroy_process_group()
print("left", torch.cuda.nccl.version())
"""


def test_one_rank_joins_reduces_and_leaves_without_a_warning(gpu):
    environment = os.environ | {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "PYTHONPATH": os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH", "")])),
    }  # fmt: skip
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, gpu.type]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("left")
    assert "arning" not in ended.stderr, ended.stderr
