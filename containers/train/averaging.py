"""Averaged weights (EMA) that follow the learned ones on their own device."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """torch's AveragedModel with `use_buffers`, state dict included, whose update never waits for the GPU.

    torch 2.10 copies the number of updates to the device for a function that has no use for it: a copy from memory that is not
    pinned, so every step would wait for all that the GPU has still to do (torch.optim.swa_utils, `update_parameters`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`decay`: the share of the average that stays in each update."""
        super().__init__(model, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Numbers that are no floats (batch norm counts its batches) are taken over as they are."""
        ours, theirs = _tensors(self.module), _tensors(model)
        floats = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
        others = [pair for pair in zip(ours, theirs, strict=True) if not pair[0].is_floating_point()]
        weight = 1.0 - self._decay if self.n_averaged > 0 else 1.0
        torch._foreach_lerp_([own for own, _ in floats], [new for _, new in floats], weight)
        for own, new in others:
            own.copy_(new)
        self.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
