"""What one GPU does with our trainer: photos from the disk, and uint8 batches in memory, against a bare loop over tensors that
lie on the GPU.

All train ResNet-50 in the precision that training chooses for the GPU. What is left to win stands beside it:
the share of the time that waits for photos, what more loader processes would bring, and on what the GPU spends its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.profiler import ProfilerActivity

from benchmarks.training.measure import Readings, Side, interleaved
from benchmarks.training.sides import CLASSES, Ours, photo_again, twin, workspace
from containers.core import architectures, host
from containers.train.optimisation import make_optimizer

_LARGEST = 4
_FILES = 192
"""Photos on the disk; each is read several times in an epoch. Making them takes a while, and they lie in memory anyway."""
_PROFILED = 10


def against_tensors(
    rounds: int, device: str = "cuda", *, batch: int = 64, steps: int = 45, loaders: int = 0, **config: Any
) -> tuple[Readings, dict[str, str]]:
    """The sides `ours`, `loaders` (more loader processes: these, or all cores but one), `memory` and `tensors`, and what is to
    be said of the first three. `device` may be cpu, which shows only that it runs.
    """
    count = batch * steps
    with workspace(min(_FILES, count)) as (root, index):
        index = photo_again(index, count)
        ours = Ours(root, index, device, batch_size=batch, **config)
        more = Ours(root, index, device, batch_size=batch, num_workers=loaders or max(1, host.cores() - 1), **config)
        memory = Ours(root, index, device, memory=True, batch_size=batch, **config)
        sides: dict[str, Side] = {"ours": ours, "loaders": more, "memory": memory, "tensors": tensors(ours, steps)}
        found = interleaved(sides, rounds)
        busiest, busy = profile(lambda: memory.few(_PROFILED), ours.run.group.device)
    rate = {side: count / median(found.wall[side]) for side in sides}
    of, each = f"photos/s of {rate['tensors']:.0f}", 1000 * median(found.wall["memory"]) / steps
    largest = ", ".join(f"{name[:40]} {share:.0%}" for name, share in busiest.items())  # kernels have names of 200 letters
    return found, {
        "ours": f"{ours.run.accelerator.name}, {ours.run.precision}, batch {batch}: {rate['ours']:.0f} {of}; {_waits(ours)}",
        "loaders": f"{rate['loaders']:.0f} {of}; {_waits(more)}",
        "memory": f"{rate['memory']:.0f} {of}; {each:.1f} ms a step, of which the device computes "
        f"{1000 * busy / _PROFILED:.1f}; most of its own time: {largest}",
    }


def _waits(side: Ours) -> str:
    """How its photos come, and how much of the last epoch waited for them."""
    loading = side.run.loading
    share = side.trainer._clock.fields()["data_wait_fraction"]
    pipe = " through pipes" if loading.pipe else ""
    return f"{loading.workers} loader processes{pipe}, {share:.0%} of the time waits for photos"


@dataclass(frozen=True)
class Loop:
    """What a bare loop computes in. `amp`: None is float32."""

    batch: int
    amp: torch.dtype | None
    layout: torch.memory_format = torch.channels_last

    def __str__(self) -> str:
        precision = str(self.amp or torch.float32).removeprefix("torch.")
        return f"{precision}, batch {self.batch}" + ("" if self.layout is torch.channels_last else ", contiguous")


def tensors(ours: Ours, steps: int, loop: Loop | None = None) -> Side:
    """Forward, backward and optimiser on one batch that lies on the device: our net, loss and optimiser, and where there is no
    `loop` our batch, layout and precision.
    """
    config, device = ours.run.config, ours.run.group.device
    loop = loop or Loop(config.batch_size, ours.run.amp_dtype)
    net, side, amp = twin(ours).to(memory_format=loop.layout), ours.run.spec.crop, loop.amp  # type: ignore[call-overload]
    images = torch.randn(loop.batch, 3, side, side, device=device).to(memory_format=loop.layout)
    labels = torch.arange(loop.batch, device=device) % CLASSES
    optimizer = make_optimizer(net, config, architectures.head_prefix(config.architecture))
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    scaler = GradScaler(device.type, enabled=amp is torch.float16)

    def train() -> None:
        for _ in range(steps):
            with torch.autocast(device.type, amp, enabled=amp is not None):
                loss = criterion(net(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return train


def loops(rounds: int, device: str = "cuda", *, photos: int = 1024, smallest: int = 64, **config: Any) -> tuple[Readings, str]:
    """Bare loops in both half precisions, three sizes of batch, and the other layout; and what each computes per second."""
    halves, sizes = (torch.bfloat16, torch.float16), (smallest, 2 * smallest, 4 * smallest)
    chosen = [Loop(size, half) for size in sizes for half in halves]
    chosen += [Loop(smallest, half, torch.contiguous_format) for half in halves]
    with workspace(1) as (root, index):
        ours = Ours(root, index, device, memory=True, batch_size=smallest, **config)
        found = interleaved({str(loop): tensors(ours, photos // loop.batch, loop) for loop in chosen}, rounds)
    told = (f"{loop}: {photos // loop.batch * loop.batch / median(found.wall[str(loop)]):.0f}" for loop in chosen)
    return found, f"{ours.run.accelerator.name}, photos/s: {'; '.join(told)}"


def profile(side: Side, device: torch.device) -> tuple[Mapping[str, float], float]:
    """On what one more call spends the device's own time: the largest shares, by kernel (on a CPU by operation); and the
    seconds of all of it.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as seen:  # else torch 2.10 warns that it clears them
        side()
    spent = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in seen.key_averages()
        if event.device_type.name == ("CUDA" if cuda else "CPU") and not event.is_user_annotation  # they span kernels
    }
    whole = sum(spent.values()) or 1.0
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:_LARGEST]
    return {name: spent[name] / whole for name in largest}, whole / 1e6
