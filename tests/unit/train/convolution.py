"""A net of one convolution with batch norm, and photos for it: what tests of compiled steps share."""

import torch
from torch import nn

from containers.train.data import Batch

SETTINGS = {"optimizer": "sgd", "momentum": 0, "backbone_lr_factor": 1}


class Net(nn.Module):
    """A convolution, batch norm and a head."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().to(memory_format=torch.channels_last)


def batch(count=8, rank=0, world=1):
    generator = torch.Generator().manual_seed(count)
    images, labels = torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 3
    mine = slice(rank, None, world)
    return Batch(images[mine].contiguous(memory_format=torch.channels_last), labels[mine], len(labels[mine]), count)


def close(one, other):
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(one.values(), other.values(), strict=True))
