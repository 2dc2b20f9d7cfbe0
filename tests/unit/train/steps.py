"""A small net, a batch, and what steps on them: what tests of a step share."""

import contextlib

import torch
from torch import nn

from containers.train.config import TrainConfig
from containers.train.data import Batch
from containers.train.distributed import Group
from containers.train.optimisation import Stepper, make_optimizer


def config(**changes):
    return TrainConfig(**{"batch_size": 8, "clip_grad_norm": 0, "label_smoothing": 0, **changes})


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(count=8):
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(count, 5, generator=generator), torch.arange(count) % 3, count, count)


def stepper(module, group=None, amp=None, replicated=False, compiling=contextlib.nullcontext, **changes):
    chosen = config(**changes)
    optimizer = make_optimizer(module, chosen, "2.")
    same = {"prepare": lambda x: x, "amp_dtype": amp, "replicated": replicated, "compiling": compiling}
    return Stepper(module, optimizer, chosen, group or Group.alone(), **same)
