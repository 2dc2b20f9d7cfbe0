"""One optimiser step on one global batch: exact averages, mixed precision, accumulation, clipping.

A rank's gradient is the sum over its photos divided by the global count, so that a last, smaller batch and unequal parts
of ranks are weighted rightly. Nothing here waits for the GPU.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from containers.core import host, logs
from containers.core.errors import AcceleratorError, is_out_of_memory
from containers.train.augmentation import mix, seed_everything
from containers.train.communication import CommunicationClock
from containers.train.compiling import Compiled
from containers.train.config import TrainConfig
from containers.train.data import Batch
from containers.train.distributed import Group
from containers.train.nonfinite import Skipping

_STEP = 3
_log = logs.get(__name__)


def make_optimizer(module: nn.Module, config: TrainConfig, head_prefix: str) -> Optimizer:
    """Four groups: {head, backbone} × {weights, biases and norms}; `factor` in a group multiplies the scheduled rate.

    Biases and norms (one-dimensional parameters) get no weight decay. An empty `head_prefix` means all is head.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = 1.0 if name.startswith(head_prefix) else config.backbone_lr_factor
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    described = [{"params": params, "factor": f, "weight_decay": decay} for (f, decay), params in groups.items()]
    if config.optimizer == "sgd":
        # fused, torch 2.10's SGD goes on with momentum that nobody wrote where its first step is skipped: see `nonfinite`
        fused, nesterov = not config.stop_on_nonfinite, config.momentum > 0
        return SGD(described, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=fused)
    return AdamW(described, lr=config.learning_rate, fused=True)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Of the head, for step 0 … total_steps - 1: a linear rise, then half a cosine towards 0. A pure function of the step."""
    rise = round(config.warmup_fraction * total_steps)
    if step < rise:
        return config.learning_rate * (step + 1) / (rise + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total_steps - rise)))


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weights that give every class the same say and average 1 over the photos."""
    counts = torch.bincount(labels, minlength=num_classes).double()
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0).float()


def ranks_meet_in(module: nn.Module) -> bool:
    """Whether a forward pass of it waits for the same pass on the other ranks: then all must make equally many."""
    return any(isinstance(layer, nn.SyncBatchNorm) for layer in module.modules())


class Stepper:
    """Owns how a step is computed; the trainer owns when."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        config: TrainConfig,
        group: Group,
        *,
        prepare: Callable[[Tensor], Tensor],
        amp_dtype: torch.dtype | None,
        weights: Tensor | None = None,
        mixing: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        replicated: bool = False,
        least: int = 1,
        compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """`prepare` maps a batch as loaded (on the device) to the module's input. `replicated`: every rank computes all.
        `least`: photos that a pass must hold (`batch_norm`), at most 2. `compiling`: what a pass that compiles is done within.
        """
        self.optimizer, self._config, self._group, self._least = optimizer, config, group, least
        self._prepare, self._amp, self._mixing = prepare, amp_dtype, mixing
        self._weights = weights.to(group.device) if weights is not None else None
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._micro = config.micro_batch_size
        self._reducing = False
        self.scaler = GradScaler(group.device.type, enabled=amp_dtype is torch.float16)
        self.skipping = None if config.stop_on_nonfinite else Skipping(module, optimizer, self.scaler, group)
        self.clock = CommunicationClock(group.device, config.gradient_compression)
        self._peers = 1 if replicated else group.world_size
        self._in_step = self._peers > 1 and ranks_meet_in(module)
        self._network = self._distribute(module)
        self._compiled: Compiled | None = None
        if config.torch_compile and not replicated:
            helpers = max(1, host.cores() // group.ranks_here)
            self._compiled = Compiled(self._network, deterministic=config.deterministic, processes=helpers, around=compiling)
        self._usual = len(range(group.rank % self._peers, config.batch_size, self._peers))  # photos of a whole batch, here
        self.sums = torch.zeros(3, dtype=torch.float64, device=group.device)
        """Of the epoch, on this rank: loss, photos classified rightly, photos."""

    def _distribute(self, module: nn.Module) -> nn.Module:
        if self._peers == 1:
            return module
        # buffers are made equal before they are used (evaluation, checkpoints), not at every step
        cuda = self._group.device.type == "cuda"
        network = DistributedDataParallel(
            module,
            device_ids=[self._group.device.index] if cuda else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
        network.register_comm_hook(None, self.clock.hook)
        return network

    def step(self, batch: Batch, rate: float, number: int) -> Tensor:
        """Train on `batch`. Returns this rank's share of the mean loss, on the device. Raises AcceleratorError on OOM."""
        device = self._group.device
        images, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        rank = 0 if self._peers == 1 and self._group.world_size > 1 else self._group.rank
        if self.skipping is not None:
            self.skipping.begin()
        sums = self._gradients(images, labels, batch, mix(self._config.seed, _STEP, number, rank))
        if self.skipping is not None:
            self.skipping.decide(sums[0])
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        if self._config.clip_grad_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.skipping is not None:
            sums = self.skipping.end(sums)
        self.optimizer.zero_grad(set_to_none=True)
        self.sums += sums
        return sums[0] / batch.total

    def _gradients(self, images: Tensor, labels: Tensor, batch: Batch, seed: int) -> Tensor:
        """Forward and backward in micro-batches, which are halved when the GPU is full and nobody chose their size. Returns
        this rank's (loss sum, right, photos).
        """
        most = math.ceil(batch.total / self._peers) if self._in_step else len(labels)
        while True:
            micro = min(self._micro or most, most)
            self._reducing = False
            seed_everything(seed, self._group.device)  # dropout and mixing: the same whenever this step is computed
            try:
                sums = self._accumulate(images, labels, batch, micro, most)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._config.micro_batch_size or micro == 1 or self._reducing or self._in_step:
                    raise self._out_of_memory(micro, error) from error
            else:
                return sums
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()  # CUDA's libraries take their memory beside torch's
            self._micro = math.ceil(micro / 2)
            fields = {"was": micro, "now": self._micro, "batch_size": self._config.batch_size}
            _log.warning("out of memory: going on with smaller micro-batches (set micro_batch_size to skip this)", extra=fields)

    def _accumulate(self, images: Tensor, labels: Tensor, batch: Batch, micro: int, most: int) -> Tensor:
        """`most`: photos of the rank that has most, where all must make as many forward passes; else this rank's."""
        sums = torch.zeros_like(self.sums)
        for start in range(0, most, micro):
            last = start + micro >= most
            with (
                contextlib.nullcontext()
                if last or not isinstance(self._network, DistributedDataParallel)
                else self._network.no_sync()
            ):
                counted = max(0, min(micro, batch.local - start))
                part = slice(start, start + micro) if start < len(labels) else slice(0, 1)  # one photo that counts nothing
                sums += self._micro_batch(images[part], labels[part], counted, batch.total, last=last)
        return sums

    def _passes(self, photos: int) -> contextlib.AbstractContextManager[Callable[[Tensor], Any]]:
        """What computes so many photos, forward and backward."""
        most = max(self._least, min(self._micro or self._usual, self._usual))
        if self._compiled is not None and self._usual and photos == most:
            return self._compiled.passes(photos)
        return contextlib.nullcontext(self._network)

    def _out_of_memory(self, micro: int, error: RuntimeError) -> AcceleratorError:
        per_rank = math.ceil(self._config.batch_size / self._peers)
        words = str(error).partition("\n")[0]
        remedy = f"set micro_batch_size to {micro // 2}; the result stays the same but for batch norm"
        if micro == 1:
            remedy = "lower image_size, or use a machine with more memory"
        return AcceleratorError(
            f"out of memory with {micro} photos at once (batch_size {self._config.batch_size}, {per_rank} per rank): "
            f"{remedy} ({words})"
        )

    def _micro_batch(self, images: Tensor, labels: Tensor, counted: int, total: int, *, last: bool) -> Tensor:
        """Adds its gradient. Returns its (loss sum, right, photos) over the first `counted` photos."""
        device = self._group.device
        if len(images) < self._least:  # the same photo again: it has the same mean, and does not count
            images, labels = images.repeat(self._least, *[1] * (images.ndim - 1)), labels.repeat(self._least)
        inputs, targets = self._prepare(images), labels
        if self._mixing is not None:
            inputs, targets = self._mixing(inputs, labels)
        with self._passes(len(labels)) as network:
            with torch.autocast(device.type, self._amp, enabled=self._amp is not None):
                logits = network(inputs)
            losses = F.cross_entropy(
                logits.float(), targets, self._weights, reduction="none", label_smoothing=self._config.label_smoothing
            )[:counted]
            loss = losses.sum() if counted else logits.float().sum() * 0.0
            self._reducing = last and self._peers > 1  # from here on peers may hold parts of this gradient: no second try
            self.scaler.scale(loss * (self._peers / total)).backward()
        if self._reducing:
            self.clock.backward_done()
        right = (logits.detach()[:counted].argmax(1) == labels[:counted]).sum()
        return torch.stack([loss.detach().double(), right.double(), right.new_full((), counted, dtype=torch.float64)])
