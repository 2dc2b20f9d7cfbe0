"""How many photos a training pass must hold for batch norm to have something to normalise."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from containers.core import architectures

_SMALL = 64
"""Pixels. The nets here halve a photo at most five times: above this no map of theirs is a single pixel."""


def least_photos(architecture: str, image_size: int) -> int:
    """2 where some batch norm sees one value per channel and photo, as at 32 pixels: a photo alone has no variance then, and
    torch raises ValueError ("Expected more than 1 value per channel when training"). Else 1.
    """
    if image_size > _SMALL:
        return 1
    single: list[bool] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        single.append(inputs[0].shape[2:].numel() == 1)

    model = architectures.build(architecture, 2, empty=True).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return 2 if any(single) else 1
