"""What it costs to bring one batch to the GPU: copied together out of the slots, and over the bus."""

import time
from collections.abc import Callable

import numpy as np
import torch


def milliseconds(shape: tuple[int, int, int], batch: int, device: str, repeats: int = 30) -> dict[str, float]:
    """Medians. `gather`: from slots into new memory, as the server does; `pageable`: from there to the device, as the engine
    does; `gather_kept`, `pinned`: the same through page-locked memory that is used again.
    """
    slots = np.random.default_rng(0).integers(0, 256, (4 * batch, *shape), dtype=np.uint8)
    chosen = np.random.default_rng(1).permutation(len(slots))[:batch].tolist()
    there = torch.empty((batch, *shape), dtype=torch.uint8, device=device)
    kept = torch.empty((batch, *shape), dtype=torch.uint8, pin_memory=there.is_cuda)
    gathered = torch.from_numpy(slots[chosen])

    def synchronised(source: torch.Tensor, *, non_blocking: bool) -> None:
        there.copy_(source, non_blocking=non_blocking)
        if there.is_cuda:
            torch.cuda.synchronize()

    return {
        "gather": _median(lambda: slots[chosen], repeats),
        "pageable": _median(lambda: synchronised(gathered, non_blocking=False), repeats),
        "gather_kept": _median(lambda: np.take(slots, chosen, axis=0, out=kept.numpy(), mode="clip"), repeats),
        "pinned": _median(lambda: synchronised(kept, non_blocking=True), repeats),
    }


def _median(work: Callable[[], object], repeats: int) -> float:
    taken: list[float] = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[3:])) * 1000
