"""Numbers that are NaN or infinite: the error that ends a run, and, with `stop_on_nonfinite` off, steps that are not taken.

Such a step changes nothing that is kept: weights, optimiser and batch-norm statistics stay, its photos count in no sum. That is
decided on the device and for all ranks together, so none steps alone and none waits for its GPU: a fused optimiser leaves out
a step while its `found_inf` is 1 (torch 2.10, optim/adam.py and sgd.py), and `GradScaler` one whose gradient holds a NaN.
"""

import math
from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from containers.core import logs
from containers.train.distributed import Group
from containers.train.early_stopping import EarlyStopping
from containers.train.errors import NonFiniteLoss
from containers.train.progress import Progress

MOST_IN_A_ROW = 100
"""A run whose steps are all skipped learns nothing more."""
IN_A_ROW = "the loss or gradient of too many training steps in a row"
_log = logs.get(__name__)


def is_well(loss: Tensor, skipping: "Skipping | None") -> bool:
    """Whether a run goes on after a step of this `loss`. Waits for the device."""
    return bool(loss.isfinite()) if skipping is None else bool(skipping.counts[1] < MOST_IN_A_ROW)


def error(what: str, progress: Progress, stopping: EarlyStopping, *, skipping: bool) -> NonFiniteLoss:
    """`skipping`: single steps are left out already."""
    best = stopping.best_epoch
    kept = f"the best model (epoch {best}) is kept" if best > 0 else "there is no earlier evaluation to fall back on"
    return NonFiniteLoss(
        f"{what} is NaN or infinite in epoch {progress.total_epochs + (progress.samples > 0)}, near step {progress.step}; "
        f"{kept}: lower learning_rate, or set precision to fp32"
        + ("" if skipping else ", or, where it is a few steps, stop_on_nonfinite to false")
    )


class Skipping:
    """Of one phase's steps. `begin` before the forward pass, `decide` before the optimiser's step, `end` after it."""

    def __init__(self, module: nn.Module, optimizer: Optimizer, scaler: GradScaler, group: Group) -> None:
        """`optimizer` must be fused."""
        self._module, self._optimizer, self._scaler, self._group = module, optimizer, scaler, group
        self._statistics: _Statistics | None = None
        self._bad = self._left_out = torch.zeros((), device=group.device)
        self.counts = torch.zeros(2, dtype=torch.float64, device=group.device)
        """Steps skipped in the epoch, and steps in a row until now that were not taken, by the scaler too; equal on all ranks.
        """

    def begin(self) -> None:
        if self._statistics is None:  # by now it is known which layers train, and what the optimiser goes on from
            self._statistics = _Statistics(self._module)
            _make_skippable(self._optimizer)
        self._statistics.keep()

    def decide(self, loss: Tensor) -> None:
        """`loss` is this rank's. The gradients must be there, and not unscaled yet.

        Where they are scaled, one that overflows is usual and the scaler's: it leaves out the step and lowers the scale, in
        most runs at their start. Such a step was not skipped for a number that is not finite, and its loss counts as ever.
        """
        gradients = [each.grad for group in self._optimizer.param_groups for each in group["params"] if each.grad is not None]
        largest = nn.utils.get_total_norm(gradients, math.inf)
        lost = torch.stack([~loss.isfinite(), ~(loss.isfinite() & largest.isfinite())]).float()
        if self._group.world_size > 1:
            dist.all_reduce(lost, op=dist.ReduceOp.MAX)
        scaled = self._scaler.is_enabled()
        self._bad, self._left_out = lost[0 if scaled else 1], lost[1]
        if scaled:
            gradients[0].add_(torch.where(self._bad > 0, math.nan, 0.0))
        else:
            self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def end(self, sums: Tensor) -> Tensor:
        """What of the step's `sums` counts."""
        if self._statistics is None:
            raise AssertionError("a step ends that did not begin")
        if not self._scaler.is_enabled():
            del self._optimizer.found_inf  # type: ignore[attr-defined]
        self._statistics.put_back_where(self._bad > 0)
        self.counts[0] += self._bad
        self.counts[1] = (self.counts[1] + 1) * self._left_out
        return torch.where(self._bad > 0, torch.zeros_like(sums), sums)

    def complete_epoch(self) -> int:
        """How many of its steps were skipped, which is said."""
        skipped = int(self.counts[0])
        self.counts[0] = 0
        if skipped and self._group.is_first:
            _log.warning("steps were skipped: their loss or gradient was not finite", extra={"steps": skipped})
        return skipped


def _make_skippable(optimizer: Optimizer) -> None:
    """A checkpoint may be of a run whose optimiser was not fused. And a first step that is skipped leaves no momentum: torch
    2.10 goes on with memory that nobody wrote. From zeros the first step is what it is without any.
    """
    for group in optimizer.param_groups:
        group["fused"] = True
        if group.get("momentum"):
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


class _Statistics:
    """What a forward pass changes of the layers that are in training mode now, as one tensor per type."""

    def __init__(self, module: nn.Module) -> None:
        self._now: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for layer in module.modules():
            for buffer in layer.buffers(recurse=False) if layer.training else ():
                self._now[buffer.dtype].append(buffer)
        self._kept: dict[torch.dtype, Tensor] = {}

    def keep(self) -> None:
        self._kept = {dtype: _flat(buffers) for dtype, buffers in self._now.items()}

    @torch.no_grad()
    def put_back_where(self, condition: Tensor) -> None:
        for dtype, buffers in self._now.items():
            chosen = torch.split(torch.where(condition, self._kept[dtype], _flat(buffers)), [each.numel() for each in buffers])
            torch._foreach_copy_(buffers, [part.view_as(each) for part, each in zip(chosen, buffers, strict=True)])


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
