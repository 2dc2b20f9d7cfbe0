"""torchvision's reference training, re-created: what pytorch/vision's references/classification/train.py does per step.

Source: train.py at commit 017e9b99, presets.py at 080836e5. As there: ImageFolder with Pillow, v1 transforms, float batches
from the loader, pin_memory, NCHW, unfused AdamW over one group, a metric logger that reads loss, top-1 and top-5 at every step
and writes a line every ten. Not as there: loader processes live from epoch to epoch, so that our short epochs do not charge
it with starting them; and scale and size of the crop are ours, so that both sides do the same work.
"""

import time
import warnings
from collections import deque
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.training.measure import Side
from benchmarks.training.sides import CLASSES, LIGHT_SCALE, Ours, twin

_PRINT_EVERY = 10


class _Meter:
    """A value's last `window` readings and its running mean."""

    def __init__(self, window: int = 20) -> None:
        self._last: deque[float] = deque(maxlen=window)
        self._total = self._count = 0.0

    def update(self, value: float, count: int = 1) -> None:
        self._last.append(value)
        self._total += value * count
        self._count += count

    def __str__(self) -> str:
        return f"{median(self._last):.4f} ({self._total / self._count:.4f})"


def reference(ours: Ours, workers: int, *, fused: bool = False) -> Side:
    """One epoch over the photos that `ours` trains on; the same weights, batch, augmentation and loader processes.

    `fused`: with torch's fused AdamW, which the reference does not ask for.
    """
    config, spec = ours.run.config, ours.run.spec
    device = torch.device("cpu")
    net = twin(ours).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    steps = [
        transforms.RandomResizedCrop(spec.crop, scale=LIGHT_SCALE),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(spec.mean, spec.std),
    ]
    dataset = ImageFolder(str(ours.root / "photos" / "train"), transforms.Compose(steps))
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        dataset, config.batch_size, sampler=RandomSampler(dataset), num_workers=workers, pin_memory=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    rate = config.learning_rate
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=config.weight_decay, fused=fused or None)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def side() -> list[str]:
        warnings.filterwarnings("ignore", message=".*pin_memory", category=UserWarning)  # there is no GPU to pin for
        net.train()
        meters = {name: _Meter(window) for name, window in (("loss", 20), ("lr", 1), ("acc1", 20), ("acc5", 20), ("img/s", 10))}
        lines = []
        for number, (loaded, labels) in enumerate(loader):
            started = time.time()
            image, target = loaded.to(device), labels.to(device)
            output = net(image)
            loss = criterion(output, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            top1, top5 = _accuracy(output, target)
            meters["loss"].update(loss.item())
            meters["lr"].update(optimizer.param_groups[0]["lr"])
            meters["acc1"].update(top1.item(), len(image))
            meters["acc5"].update(top5.item(), len(image))
            meters["img/s"].update(len(image) / (time.time() - started))
            if number % _PRINT_EVERY == 0:
                lines.append("  ".join(f"{name}: {meter}" for name, meter in meters.items()))
        return lines

    return side


def _accuracy(output: Tensor, target: Tensor) -> list[Tensor]:
    """Percent of the batch whose label is the first, and among the first five."""
    with torch.inference_mode():
        right = output.topk(min(5, CLASSES), 1)[1].t().eq(target[None])
        return [right[:count].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for count in (1, 5)]
