"""torch.compile for the passes that nearly every step makes, plain torch for all others.

Compiling takes minutes for each number of photos, so only one is compiled: that of a whole batch, or micro-batch. The smaller
last batch of an epoch is computed as written, and so is all that is evaluated: no file ever comes of the compiled form.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from containers.core import logs
from containers.core.errors import AcceleratorError, is_out_of_memory
from containers.train.data import signals_held

_log = logs.get(__name__)


class Compiled:
    """`network` and its compiled form, which share their parameters. What compiles is imported here: it takes seconds."""

    def __init__(self, network: nn.Module, *, deterministic: bool) -> None:
        """`deterministic`: no kernel is chosen by its speed, which differs from one run to the next."""
        from torch._inductor import config as inductor

        inductor.deterministic = deterministic
        torch.compiler.reset()  # what the phase before compiled would keep its memory
        self._compiled: Callable[[Tensor], Any] = torch.compile(network, dynamic=False)
        self._ready: set[tuple[int, bool]] = set()

    @contextlib.contextmanager
    def passes(self, photos: int, *, reduced: bool) -> Iterator[Callable[[Tensor], Any]]:
        """For one pass, forward and backward. `reduced`: its gradients go to other ranks, which is another program.

        The first of each kind compiles. Signals wait meanwhile, and never reach the processes that help. Raises
        AcceleratorError where torch cannot compile the network.
        """
        from torch._dynamo.exc import TorchDynamoException

        if (photos, reduced) in self._ready:
            yield self._compiled
            return
        started = time.monotonic()
        _log.info("compiling: this step takes minutes", extra={"photos": photos})
        try:
            with signals_held():
                yield self._compiled
        except TorchDynamoException as error:
            if is_out_of_memory(error):
                raise
            why = str(error).strip().partition("\n")[0]
            raise AcceleratorError(f"torch.compile failed: set torch_compile to false, and the job goes on ({why})") from error
        self._ready.add((photos, reduced))
        _log.info("compiled", extra={"photos": photos, "seconds": round(time.monotonic() - started, 1)})
