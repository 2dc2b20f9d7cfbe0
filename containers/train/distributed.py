"""The ranks of a job as one group: joining, exact sums, one rank's word for all, and agreeing when to stop.

Roles follow RANK only (rank 0 is on the first host: `rendezvous`). With one rank every operation is the identity, so the
rest of training has no second code path.
"""

import contextlib
import enum
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
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


class Signal(enum.IntEnum):
    """What the ranks agreed on at a step; the largest wins."""

    GO = 0
    CHECKPOINT = 1
    STOP = 2
    NON_FINITE = 3


class StopRequested(BaseException):
    """Raised on every rank at the same step; the trainer turns it into a checkpoint.

    No Exception: it may come out of a signal handler in the middle of any library, and what handles errors must not swallow it.
    """


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


class StopRequest:
    """Remembers that this process was asked to stop. The signal handler sets a flag and does nothing else."""

    def __init__(self) -> None:
        self.asked = False
        self._impatient = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT, also those that came while they were blocked. Call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._impatient:
            raise StopRequested

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work on one rank that can be abandoned anywhere: a request raises StopRequested right here."""
        self._impatient = True
        try:
            if self.asked:
                raise StopRequested
            yield
        finally:
            self._impatient = False


class Agreement:
    """Every rank asks `poll` at the same points; all get the same answer at the same point.

    Asking costs no wait: a poll starts a one-integer maximum over the ranks and returns what the poll before it found.
    `stop_file` is the launcher's way to say what a signal says.
    """

    def __init__(self, group: Group, request: StopRequest, stop_file: Path, checkpoint_every_seconds: float) -> None:
        self._group, self._request, self._stop_file = group, request, stop_file
        self._every = checkpoint_every_seconds
        self._announced = False
        self._saved_at = time.monotonic()
        self._pending: tuple[Any, Tensor] | None = None

    def asked(self) -> bool:
        """This process has had its signal; what other ranks know is for `poll`."""
        return self._request.asked

    def saved(self) -> None:
        """A checkpoint was written: the clock starts again."""
        self._saved_at, self._announced = time.monotonic(), False

    def _local(self, finite: bool, can_save: bool) -> Signal:
        if not finite:
            return Signal.NON_FINITE
        if self._request.asked or self._stop_file.exists():
            return Signal.STOP
        due = can_save and self._group.is_first and not self._announced and time.monotonic() - self._saved_at >= self._every
        self._announced = self._announced or due
        return Signal.CHECKPOINT if due else Signal.GO

    def poll(self, *, finite: bool = True, can_save: bool = True) -> Signal:
        """The largest signal any rank gave one poll ago (with one rank: now)."""
        local = self._local(finite, can_save)
        if self._group.world_size == 1:
            return local
        answer = Signal.GO
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            answer = Signal(int(flag))
        flag = torch.tensor([int(local)], dtype=torch.int64)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group.control, async_op=True), flag)
        return answer

    def check(self) -> None:
        """Poll where nothing but stopping matters. Raises StopRequested, on all ranks at the same point."""
        if self.poll(can_save=False) is Signal.STOP:
            raise StopRequested
