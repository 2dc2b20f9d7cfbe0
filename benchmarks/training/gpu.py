"""What one GPU does with our trainer: photos from the disk, against a bare loop over tensors that lie on the GPU.

Both train ResNet-50 in the precision that the GPU is best at. What is left to win stands beside it: the share of the time that
waits for photos, and on what the GPU spends its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.profiler import ProfilerActivity

from benchmarks.training.measure import Readings, Side, interleaved
from benchmarks.training.sides import CLASSES, Ours, twin, workspace
from containers.core import architectures
from containers.train.optimisation import make_optimizer

_LARGEST = 4


def against_tensors(
    rounds: int, device: str = "cuda", *, batch: int = 64, steps: int = 20, **config: Any
) -> tuple[Readings, str]:
    """The sides `ours` and `tensors`, and what is to be said of them. `device` may be cpu, which shows only that it runs."""
    with workspace(batch * steps) as (root, index):
        ours = Ours(root, index, device, batch_size=batch, **config)
        found = interleaved({"ours": ours, "tensors": tensors(ours, steps)}, rounds)
        clock = ours.trainer._clock.fields()
        busiest = profile(ours, ours.run.group.device)
    own, theirs = (batch * steps * rounds / sum(found.wall[side]) for side in ("ours", "tensors"))
    precision = str(ours.run.amp_dtype or torch.float32).removeprefix("torch.")
    largest = ", ".join(f"{name[:40]} {share:.0%}" for name, share in busiest.items())  # kernels have names of 200 letters
    return found, (
        f"{ours.run.accelerator.name}, {precision}, batch {batch}: {own:.0f} photos/s of {theirs:.0f}; "
        f"{ours.run.loading.workers} loader processes, {clock['data_wait_fraction']:.0%} of the time waits for photos; "
        f"most of the device's own time: {largest}"
    )


def tensors(ours: Ours, steps: int) -> Side:
    """Forward, backward and optimiser on one batch that lies on the device: our net, loss, precision and optimiser."""
    config, device, amp = ours.run.config, ours.run.group.device, ours.run.amp_dtype
    net, side = twin(ours), ours.run.spec.crop
    images = torch.randn(config.batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(config.batch_size, device=device) % CLASSES
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


def profile(side: Side, device: torch.device) -> Mapping[str, float]:
    """On what one more call spends the device's own time: the largest shares, by kernel (on a CPU by operation)."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as seen:  # else torch 2.10 warns that it clears them
        side()
    spent = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in seen.key_averages()
        if event.device_type.name == ("CUDA" if cuda else "CPU")
    }
    whole = sum(spent.values()) or 1.0
    return {name: spent[name] / whole for name in sorted(spent, key=spent.__getitem__, reverse=True)[:_LARGEST]}
