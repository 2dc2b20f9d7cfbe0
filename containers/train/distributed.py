"""The ranks of a job as one group: joining, exact sums, one rank's word for all.

Roles follow RANK only (rank 0 is on the first host: `rendezvous`). With one rank every operation is the identity, so the
rest of training has no second code path.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from containers.core.accelerator import Accelerator
from containers.core.errors import AcceleratorError
from containers.train.errors import PeerLost

_COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A rank that lives and stands still (a GPU that hangs) ends the job after that; a lost host, after `hosts.LOST_SECONDS`."""
_BARRIER_TIMEOUT = timedelta(hours=2)
"""Peers wait in the last barrier while rank 0 writes reports and engines."""


@dataclass(frozen=True)
class Group:
    """`control` is a gloo group on the CPU, so that agreeing never waits for the GPU's stream; `patient` one for barriers."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: Any = None
    patient: Any = None

    @classmethod
    def alone(cls, device: torch.device | None = None) -> Self:
        return cls(0, 1, 0, device or torch.device("cpu"))

    @classmethod
    def join(cls, accelerator: Accelerator) -> Self:
        """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe; without them, a group of one.

        Raises PeerLost where the ranks do not meet.
        """
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank, device = int(os.environ.get("LOCAL_RANK", "0")), accelerator.device
        if world_size == 1:
            return cls(rank, world_size, local_rank, device)
        return cls(rank, world_size, local_rank, device, *_connect(rank, world_size, device))

    @property
    def is_first(self) -> bool:
        """True on the one rank that writes."""
        return self.rank == 0

    @property
    def ranks_here(self) -> int:
        """How many ranks share this host's cores and memory."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, on the CPU, in the tensor's own type (use float64 or integers for exact sums)."""
        total = tensor.detach().to("cpu", copy=True)
        if self.world_size > 1:
            dist.all_reduce(total, group=self.control)
        return total

    def broadcast(self, value: float, source: int = 0) -> float:
        """`source`'s number, on every rank."""
        return float(self.broadcast_tensor(torch.tensor([value], dtype=torch.float64), source).item())

    def broadcast_tensor(self, tensor: Tensor, source: int = 0) -> Tensor:
        """`source`'s CPU tensor (same shape and type everywhere), in place."""
        if self.world_size > 1:
            dist.broadcast(tensor, source, group=self.control)
        return tensor

    def broadcast_bytes(self, data: bytes | None, source: int) -> bytes:
        """`source`'s bytes; the others pass None."""
        size = int(self.broadcast(len(data or b""), source))
        if self.world_size == 1 or size == 0:
            return data or b""
        mine = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data and self.rank == source else None
        return bytes(self.broadcast_tensor(mine if mine is not None else torch.empty(size, dtype=torch.uint8), source).numpy())

    def gather(self, value: Any) -> list[Any]:
        """Every rank's small picklable value, in rank order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def make_equal(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite these tensors with rank 0's, in a few large messages."""
        if self.world_size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        for same in by_type.values():
            flat = torch.cat([tensor.flatten() for tensor in same])
            dist.broadcast(flat, 0)
            parts = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def make_module_equal(self, module: nn.Module) -> None:
        self.make_equal([*module.parameters(), *module.buffers()])

    def barrier(self) -> None:
        """Wait for every rank, however long rank 0 writes."""
        if self.world_size > 1:
            dist.barrier(group=self.patient)

    def leave(self) -> None:
        if self.world_size > 1:
            dist.destroy_process_group()


def _connect(rank: int, world_size: int, device: torch.device) -> tuple[Any, Any]:
    """(control, patient) of `Group`, and torch's own group for what lies on the device. Raises PeerLost."""
    cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_COLLECTIVE_TIMEOUT, device_id=device if cuda else None
        )
        control, patient = (dist.new_group(backend="gloo", timeout=each) for each in (_COLLECTIVE_TIMEOUT, _BARRIER_TIMEOUT))
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        raise PeerLost(_not_met(rank, world_size, str(error))) from error
    except dist.DistBackendError as error:  # with a `device_id`, NCCL connects at once
        if named := no_shared_memory(error):
            raise named from error
        raise
    return control, patient


def _not_met(rank: int, world_size: int, said: str) -> str:
    """Torch says how many ranks came to rank 0 and not which, so no host can be named here; `hosts` names one that is lost."""
    first = f"rank 0 at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    what = f"not all of {world_size} ranks came to {first}" if rank == 0 else f"rank {rank} could not meet {first}"
    words = said.partition("\n")[0].rstrip(". ")
    return f"{what} ({words}): hosts of a job must reach each other on every port; see the logs of all hosts"


def no_shared_memory(error: RuntimeError) -> AcceleratorError | None:
    """NCCL's lack of room with its remedy. GPUs of one host that cannot reach each other's memory talk through /dev/shm, as T4s
    do. Docker gives a container 64 MB of it, and NCCL wants 10 for each of their ways.
    """
    if not (isinstance(error, dist.DistBackendError) and "shared memory segment" in str(error)):
        return None
    return AcceleratorError(
        "this host's GPUs found no room in /dev/shm to talk through: start the container with --shm-size 2g or --ipc host "
        f"({str(error).splitlines()[-1]})"
    )
