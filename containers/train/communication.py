"""What the gradients of several ranks cost in waiting, measured where torch sends them."""

import time

import torch
from torch import Tensor
from torch.distributed import GradBucket, ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks


class CommunicationClock:
    """Measures how long a step waits for its peers after its own gradients are complete.

    DDP calls `hook` once per bucket, as soon as the bucket's gradients exist: the last call is the end of computing.
    """

    def __init__(self, device: torch.device, compress: bool) -> None:
        self._device, self._compress = device, compress
        self._computed: float | torch.cuda.Event = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def hook(self, group: ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        self._computed = self._now()
        chosen = default_hooks.fp16_compress_hook if self._compress else default_hooks.allreduce_hook
        return chosen(group, bucket)  # type: ignore[arg-type]

    def _now(self) -> "float | torch.cuda.Event":
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()  # type: ignore[no-untyped-call]
        return event

    def backward_done(self) -> None:
        now = self._now()
        if isinstance(now, float) and isinstance(self._computed, float):
            self._seconds += now - self._computed
        elif isinstance(now, torch.cuda.Event) and isinstance(self._computed, torch.cuda.Event):
            self._events.append((self._computed, now))

    def take_seconds(self) -> float:
        """Seconds waited since the last call. Waits for the GPU, also where there are no peers, so that the clock read next
        counts what was computed and not what was begun: call it once per epoch.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._events:
            self._seconds += (
                sum(
                    start.elapsed_time(end)  # type: ignore[no-untyped-call]
                    for start, end in self._events
                )
                / 1000
            )
            self._events = []
        seconds, self._seconds = self._seconds, 0.0
        return seconds
