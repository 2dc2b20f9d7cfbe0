"""Memory that runs out where fewer photos at once give none back: what takes it, and what helps.

A step's passes halve their micro-batch or name the next one to try (`optimisation`), an evaluation does so itself (`run`). The
rest is here: the weights, the optimiser's state, which it makes in its first step, the moving average's copy, a checkpoint's
state that goes back to the device, and whatever the host itself has no memory for.
"""

from containers.core import architectures
from containers.core.errors import AcceleratorError, is_out_of_memory
from containers.train.config import TrainConfig
from containers.train.room import MOMENTS

_HOSTS = ("DefaultCPUAllocator", "std::bad_alloc", "Cannot allocate memory", "HOST_ALLOCATION_FAILED", "pin memory thread")
"""Of what `is_out_of_memory` knows, what is said of the host's memory. torch's thread that pins photos for a GPU takes it from
the host, and CUDA calls that by its own name (2.10, utils/data/_utils/pin_memory.py)."""


def ran_out(error: Exception, config: TrainConfig) -> AcceleratorError | None:
    """What `error` means, with the remedy and the frames of its place; None where it is not about memory."""
    if not is_out_of_memory(error):
        return None
    words = str(error).partition("\n")[0] or type(error).__name__
    of_host = isinstance(error, (MemoryError, OSError)) or any(each in str(error) for each in _HOSTS)
    named = AcceleratorError(f"{_host() if of_host else _gpu(config)} ({words})")
    return named.with_traceback(error.__traceback__)


def _host() -> str:
    return (
        "out of memory on the host, not on a GPU: set num_workers to 0, start fewer processes per host, or use a machine with "
        "more memory; the job then goes on from its checkpoint"
    )


def _gpu(config: TrainConfig) -> str:
    average = "" if not config.ema_decay else " and the average of ema_decay"
    less = ["a smaller architecture"] + ["optimizer sgd"] * (config.optimizer == "adamw") + ["ema_decay 0"] * bool(average)
    return (
        f"out of memory on the GPU for what no batch_size changes: {config.architecture}'s weights, their gradients, what "
        f"{config.optimizer} keeps of each{average}, {held(config) / 1e9:.1f} GB in all. End what else uses this GPU (see "
        "nvidia-smi), or use one with more memory: the job then goes on from its checkpoint. Less is needed by another run, "
        f"with {' or '.join(less)}"
    )


def held(config: TrainConfig) -> int:
    """Bytes of the model, its gradients, the optimiser's state and the moving average, in float32 (the head: of one class)."""
    numbers = sum(each.numel() for each in architectures.build(config.architecture, 1, empty=True).parameters())
    return 4 * numbers * (2 + MOMENTS[config.optimizer] + bool(config.ema_decay))
