import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from containers.core import accelerator
from containers.core.errors import AcceleratorError
from containers.train import distributed
from containers.train.agreement import Agreement, StopRequest
from containers.train.distributed import Group
from containers.train.errors import PeerLost
from containers.train.failure import Failure
from tests.support.server import free_port
from tests.support.training import DEADLINE, in_ranks

LIMIT = 12
"""Seconds. Ranks must also find each other within them, on a busy machine too."""


def test_one_rank_needs_nobody():
    group = Group.alone()
    assert group.broadcast(0.1) == 0.1
    assert group.broadcast_bytes(b"x", 0) == b"x"
    assert group.gather("y") == ["y"]
    assert torch.equal(group.sum(torch.arange(3)), torch.arange(3))


def test_sums_words_bytes_and_tensors_reach_every_rank():
    def body(group):
        module = torch.nn.BatchNorm1d(3)
        with torch.no_grad():
            module.weight.fill_(group.rank)
        module.running_mean.fill_(group.rank + 5)
        module.num_batches_tracked.fill_(group.rank + 7)
        group.make_module_equal(module)
        return (
            group.sum(torch.tensor([group.rank + 1])).item(),
            group.broadcast(group.rank + 0.1, source=1),
            group.broadcast_bytes(b"from two" if group.rank == 2 else None, source=2),
            group.gather(group.rank),
            [float(value.flatten()[0]) for value in module.state_dict().values()],
        )

    assert in_ranks(3, body) == [(6, 1.1, b"from two", [0, 1, 2], [0, 0, 5, 1, 7])] * 3


@pytest.mark.parametrize(
    ("rank", "says"),
    [
        (0, r"not all of 2 ranks came to rank 0 at 127.0.0.1:{port} \(.*1/2 clients"),
        (1, "rank 1 could not meet rank 0 at 127.0.0.1:{port}"),
    ],
)
def test_ranks_that_do_not_meet_say_what_is_known(monkeypatch, rank, says):
    monkeypatch.setattr(distributed, "_COLLECTIVE_TIMEOUT", timedelta(seconds=2))
    port = free_port()
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(PeerLost, match=says.format(port=port)) as caught:
        Group.join(accelerator.detect("cpu"))
    assert "see the logs of all hosts" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_barrier_waits_for_rank_0_longer_than_any_step_does(monkeypatch):
    monkeypatch.setattr(distributed, "_COLLECTIVE_TIMEOUT", timedelta(seconds=LIMIT))  # forked ranks inherit it

    def body(group):
        time.sleep(1.5 * LIMIT * group.is_first)
        group.barrier()
        return group.gather(group.rank)

    assert in_ranks(2, body) == [[0, 1]] * 2


def test_a_rank_that_stands_still_ends_the_step_of_the_others(monkeypatch, tmp_path):
    """Its process lives, so no connection closes: only the time limit helps, also where ranks merely agree."""
    monkeypatch.setattr(distributed, "_COLLECTIVE_TIMEOUT", timedelta(seconds=LIMIT))
    told = tmp_path / "told"

    def body(group):
        if group.is_first:
            time.sleep(DEADLINE)
        mine = Agreement(group, StopRequest(), tmp_path / "stop", 1e9)
        mine.poll()
        try:
            mine.poll()
        except RuntimeError as error:
            made = Failure.of(error)
            told.write_text(f"{made.kind} {made.exit_code}")
        os._exit(9)

    with pytest.raises(AssertionError):  # nobody brings a result
        in_ranks(2, body)
    assert told.read_text() == "PeerLost 75"


NO_ROOM = (
    "NCCL error in: NCCLUtils.hpp, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.\n"
    "Last error:\nError while creating shared memory segment /dev/shm/nccl-Qx1 (size 9637888)"
)


def test_gpus_without_room_to_talk_through_are_told_how_to_get_it():
    named = distributed.no_shared_memory(dist.DistBackendError(NO_ROOM))
    assert named is not None
    assert named.exit_code == 4
    assert str(named).startswith(
        "this host's GPUs found no room in /dev/shm to talk through: start the container with --shm-size 2g or --ipc host"
    )
    assert str(named).endswith("(Error while creating shared memory segment /dev/shm/nccl-Qx1 (size 9637888))")


def test_gpus_without_room_are_told_while_they_meet_too(monkeypatch):
    def connect(*_, **__):
        raise dist.DistBackendError(NO_ROOM)

    monkeypatch.setattr(dist, "init_process_group", connect)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AcceleratorError, match="no room in /dev/shm"):
        Group.join(accelerator.detect("cpu"))


@pytest.mark.parametrize("error", [dist.DistBackendError("ncclInternalError"), RuntimeError("no shared memory segment")])
def test_other_errors_keep_their_names(error):
    assert distributed.no_shared_memory(error) is None
