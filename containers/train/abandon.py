"""Leaving work in its middle when asked to stop, where no other rank waits for the rest of it.

On a CPU one step of a large network takes many seconds. As long as the optimiser has not touched the weights, all that a step
has changed are the buffers of its layers (batch-norm statistics). These are put back; resumed, the step is computed again,
with the same photos and random numbers, and the run ends bitwise as if nobody had asked. On a GPU steps are short, and several
ranks must leave at one step: both keep to the end of a step, but for one that compiles.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from containers.train.agreement import StopRequested


@contextlib.contextmanager
def between_layers(module: nn.Module, asked: Callable[[], bool]) -> Iterator[None]:
    """While it lasts, passes of `module`, forward or backward, raise StopRequested at the next layer with weights once `asked`.

    Of a backward pass this holds where it runs on the thread that called it, as it does on a CPU.
    """

    def look(*_: object) -> None:
        if asked():
            raise StopRequested

    handles = []
    for layer in module.modules():
        weights = [each for each in layer.parameters(recurse=False) if each.ndim > 1]
        if weights:
            handles.append(layer.register_forward_pre_hook(look))
            for each in weights:
                if each.requires_grad:
                    handles.append(each.register_post_accumulate_grad_hook(look))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Buffers:
    """What a forward pass changes of the layers that are in training mode now."""

    def __init__(self, module: nn.Module) -> None:
        self._now = [buffer for layer in module.modules() if layer.training for buffer in layer.buffers(recurse=False)]
        self._kept = [buffer.clone() for buffer in self._now]

    def keep(self) -> None:
        """Before a step."""
        if self._now:
            torch._foreach_copy_(self._kept, self._now)

    def put_back(self) -> None:
        with torch.no_grad():
            for kept, now in zip(self._kept, self._now, strict=True):
                now.copy_(kept)


@contextlib.contextmanager
def anywhere(module: nn.Module, at_once: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
    """While it lasts, a request to stop raises StopRequested wherever this process is, and `module`'s buffers are put back."""
    before = Buffers(module)
    before.keep()
    try:
        with at_once():
            yield
    except StopRequested:
        before.put_back()
        raise
