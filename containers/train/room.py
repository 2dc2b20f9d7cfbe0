"""How much of the disk a run takes up at most: known once its model is built, and looked at before its first step."""

from collections.abc import Iterable

from torch import Tensor

from containers.core import architectures
from containers.train import machine
from containers.train.config import TrainConfig
from containers.train.run import Run

_CHECKPOINTS = 4
"""The last two, the best of one of them, and the one that is being written."""
MOMENTS = {"adamw": 2, "sgd": 1}
"""What the optimiser keeps of each parameter that learns: AdamW two averages, SGD its momentum."""
_ENGINES = {"none": 0.0, "fp32": 1.0, "int8": 1.25}
"""Of the model's size: fp32 is as large, int8 comes with it and has a byte for four."""
_SMALL_FILES = 8 << 20
"""Report, manifest, golden photo."""


def check(run: Run, *, finished: bool) -> None:
    """On rank 0, which writes. A finished run writes no checkpoint. Raises ConfigError naming the folder that is too full."""
    if run.group.is_first:
        machine.check_disk(run.job.paths, checkpoints=0 if finished else checkpoints(run), model=model(run))


def checkpoints(run: Run) -> int:
    """Bytes, at most: those of the phase that writes more, and what the head's checkpoints refer to."""
    head = architectures.head(run.model, run.config.architecture)
    base = _size(run.model.state_dict().values()) if run.config.head_epochs else 0
    learned = run.model if run.config.epochs else head
    return base + _CHECKPOINTS * _checkpoint(run.config, _size(learned.state_dict().values()), _size(learned.parameters()))


def model(run: Run) -> int:
    """Bytes."""
    return round(_size(run.model.state_dict().values()) * (1 + _ENGINES[run.config.engines])) + _SMALL_FILES


def _checkpoint(config: TrainConfig, state: int, parameters: int) -> int:
    average = state if config.ema_decay and config.epochs else 0
    return state + average + MOMENTS[config.optimizer] * parameters


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
