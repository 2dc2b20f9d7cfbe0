"""torch.compile for the passes that nearly every step makes, plain torch for all others.

Compiling takes minutes for each number of photos, so only one is compiled: that of a whole batch, or micro-batch. The smaller
last batch of an epoch is computed as written, and so is all that is evaluated: no file ever comes of the compiled form.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from containers.core import logs
from containers.core.errors import AcceleratorError, is_out_of_memory
from containers.train import data

_log = logs.get(__name__)


class Compiled:
    """`network` and its compiled form, which share their parameters. What compiles is imported here: it takes seconds."""

    def __init__(
        self, network: nn.Module, *, deterministic: bool, processes: int, around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`deterministic`: no kernel is chosen by its speed, which differs from one run to the next. `processes`: how many may
        help to compile; TORCHINDUCTOR_COMPILE_THREADS goes before it. `around`: what a pass that compiles is done within, for
        what a request to stop does meanwhile.
        """
        from torch._functorch import config as functorch
        from torch._inductor import config as inductor

        inductor.deterministic = deterministic
        if not os.environ.get("TORCHINDUCTOR_COMPILE_THREADS"):  # torch counts the host's cores, for each rank
            inductor.compile_threads = processes
        # Else the backward pass is compiled when it is called: for a GPU in a thread of autograd's, while the main one waits in
        # C++ and hears no signal. Several ranks do not leave anyway, and DDP's parts need it so.
        functorch.force_non_lazy_backward_lowering = not isinstance(network, DistributedDataParallel)
        torch.compiler.reset()  # what the phase before compiled would keep its memory
        self._compiled: Callable[[Tensor], Any] = torch.compile(network, dynamic=False)
        self._around = around
        self._ready: set[int] = set()

    @contextlib.contextmanager
    def passes(self, photos: int) -> Iterator[Callable[[Tensor], Any]]:
        """For one pass, forward and backward, of so many photos; the first compiles.

        Raises AcceleratorError where torch cannot compile the network, WorkerFailed where a loader dies meanwhile, and what
        `around` does.
        """
        from torch._dynamo.exc import TorchDynamoException

        if photos in self._ready:
            yield self._compiled
            return
        started = time.monotonic()
        _log.info("compiling: this step takes minutes", extra={"photos": photos})
        try:
            with self._around():
                yield self._compiled
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)  # whatever was raised while torch compiled
            if is_out_of_memory(cause):
                raise cause from error
            if died := data.died(cause):
                raise died from error
            why, _, _ = f"{type(cause).__name__}: {cause}".partition("\n")
            raise AcceleratorError(f"torch.compile failed: set torch_compile to false, and the job goes on ({why})") from error
        self._ready.add(photos)
        _log.info("compiled", extra={"photos": photos, "seconds": round(time.monotonic() - started, 1)})
