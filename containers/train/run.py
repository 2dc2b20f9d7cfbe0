"""Everything of a training run that is fixed from the first step to the last, and how a model is asked within it."""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from containers.core import accelerator, architectures, artifact, logs
from containers.core.accelerator import Accelerator
from containers.core.errors import AcceleratorError, ConfigError, is_out_of_memory
from containers.core.preprocessing import PreprocessSpec
from containers.train import abandon, evaluation, features
from containers.train.agreement import Agreement, StopRequest
from containers.train.augmentation import mix
from containers.train.config import TrainConfig
from containers.train.data import LoaderPlan, evaluation_batches, plan_loader, signals_held
from containers.train.distributed import Group
from containers.train.evaluation import Scores
from containers.train.index import DatasetIndex, Split
from containers.train.job import TrainingJob

_log = logs.get(__name__)
_EVALUATION_BATCH = 64
_CPU_ROWS = 16
"""Photos that a CPU computes at once where nothing is learned: with more, every layer's output is fresh memory from the kernel
(ResNet-50, one core: 0.11 s per photo at 16, 0.13 s at 64)."""
_INITIAL = 4
_constants = functools.lru_cache(maxsize=2)(artifact.constants)  # made once, not at every step
_PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that is fixed from the first step to the last."""

    job: TrainingJob
    index: DatasetIndex
    spec: PreprocessSpec
    group: Group
    accelerator: Accelerator
    devices: tuple[str, ...]
    """What each rank computes on, by name, in rank order: hosts may have different GPUs."""
    amp_dtype: torch.dtype | None
    loading: LoaderPlan
    model: nn.Module
    agreement: Agreement

    @property
    def config(self) -> TrainConfig:
        return self.job.config

    def epochs(self, phase: int) -> int:
        return (self.config.head_epochs, self.config.epochs)[phase]

    @property
    def precision(self) -> str:
        """Of phase 2 and of the backbone, as torch names it."""
        return str(self.amp_dtype or torch.float32).removeprefix("torch.")

    def labels(self, split: Split) -> Tensor:
        return torch.tensor([photo.label for photo in self.index.splits[split]])

    @property
    def may_abandon(self) -> bool:
        """A request to stop need not wait for the end of a step: nobody else takes part in it, and it may take long. A compiled
        pass is one piece.
        """
        return self.group.world_size == 1 and self.group.device.type == "cpu" and not self.config.torch_compile

    def leaving(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """For passes of `module` that a request to stop may end in their middle, where it may anywhere."""
        return abandon.between_layers(module, self.agreement.asked) if self.may_abandon else contextlib.nullcontext()

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """For a training pass that compiles: minutes. A rank without others leaves it when asked to stop. With others signals
        wait, and never reach the processes that help to compile.
        """
        return abandon.anywhere(self.model, self.agreement.at_once) if self.group.world_size == 1 else signals_held()

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 (N, S, S, 3) → normalised float (N, 3, S, S), channels_last."""
        return artifact.normalise_by(images, *_constants(self.spec.mean, self.spec.std, images.device, repeat=images.shape[2]))

    def forward(self, module: nn.Module, amp_dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
        """uint8 photos → what `module` makes of them, in float32, without gradients. `module` must be in eval mode.

        A full GPU computes fewer of them at once, for the rest of this pass. Raises AcceleratorError where one is too many,
        StopRequested where the run may be left in the middle of work.
        """
        device = self.group.device
        rows = _CPU_ROWS if device.type == "cpu" else _EVALUATION_BATCH

        def compute(images: Tensor) -> Tensor:
            output: Tensor = module(self.to_input(images.to(device, non_blocking=True)))
            return output.float()

        def run(images: Tensor) -> Tensor:
            nonlocal rows
            while True:
                cast = torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None)
                try:
                    with torch.no_grad(), cast, self.leaving(module):
                        return torch.cat([compute(part) for part in torch.split(images, rows)])
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if rows == 1:
                        words = str(error).partition("\n")[0]
                        why = f"out of memory with one photo: lower image_size, or use a machine with more memory ({words})"
                        raise AcceleratorError(why) from error
                rows = min(rows, len(images)) // 2 or 1
                torch.cuda.empty_cache()
                _log.warning("out of memory: evaluating fewer photos at once", extra={"photos_at_once": rows})

        return run

    def evaluate(
        self, module: nn.Module, split: Split, *, amp_dtype: torch.dtype | None = None, with_logits: bool = False
    ) -> Scores:
        """Exact scores of `module` on a split, with rank 0's batch-norm statistics on all ranks. Raises StopRequested."""
        self.group.make_equal(module.buffers())
        was_training = module.training
        module.eval()
        labels, photos = self.labels(split), self.index.splits[split]
        mine = range(self.group.rank, len(photos), self.group.world_size)
        try:
            return evaluation.evaluate(
                self.group,
                self.forward(module, amp_dtype),
                evaluation_batches(photos, self.spec, mine, _EVALUATION_BATCH, self.loading, self.group),
                labels,
                len(self.index.class_names),
                _EVALUATION_BATCH,
                check=self.agreement.check,
                with_logits=with_logits,
            )
        finally:
            module.train(was_training)


def prepare(job: TrainingJob, request: StopRequest) -> Run:
    """Join the other ranks and build the model with random weights, the same on every rank. Raises Error."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = accelerator.detect(job.device, local_rank=local_rank)
    _set_numerics(job.config, device)
    group = Group.join(device)
    index = DatasetIndex.read(job.paths.index_file)
    spec = preprocessing(job.config)
    batch_bytes = largest_batch(job.config, group) * spec.crop**2 * 3
    torch.manual_seed(mix(job.config.seed, _INITIAL))
    model = architectures.build(job.config.architecture, len(index.class_names))
    if getattr(model, "image_size", spec.crop) != spec.crop:
        raise ConfigError(f"{job.config.architecture} sees {model.image_size} pixels only: set image_size to 0")
    run = Run(
        job=job,
        index=index,
        spec=spec,
        group=group,
        accelerator=device,
        devices=tuple(group.gather(device.name)),
        amp_dtype=agreed_precision(job.config.precision, device, group),
        loading=plan_loader(job.config, group, batch_bytes, ranks_here=group.ranks_here),
        model=model.to(device=device.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
        agreement=Agreement(group, request, job.paths.stop_file, job.config.checkpoint_every_seconds),
    )
    _log.info("computing", extra={"device": device.name, "precision": run.precision, "loaders": run.loading.workers})
    return run


def largest_batch(config: TrainConfig, group: Group) -> int:
    """Photos of one rank that are loaded together: in training, in evaluation, or for the features."""
    return max(-(-config.batch_size // group.world_size), _EVALUATION_BATCH, features.CHUNK)


def agreed_precision(precision: str, device: Accelerator, group: Group) -> torch.dtype | None:
    """What autocast uses, the same on every rank. Raises ConfigError where `auto` means different things on their GPUs: one
    rank's scaled gradients would be added to another's unscaled ones; and for bf16 on a GPU that lacks it: torch would
    imitate it, without cuDNN.
    """
    chosen = device.amp_dtype if precision == "auto" else _PRECISIONS[precision]
    if chosen is torch.bfloat16 and device.amp_dtype is torch.float16:
        raise ConfigError(f"precision is bf16 and {device.name} has no bfloat16: set precision to auto, fp16 or fp32")
    everybody = group.gather((device.name, chosen))
    if any(other != chosen for _, other in everybody):
        names = ", ".join(sorted({name for name, _ in everybody}))
        raise ConfigError(f"the ranks' devices ({names}) differ in what precision=auto means: set precision to fp16 or fp32")
    return chosen


def preprocessing(config: TrainConfig) -> PreprocessSpec:
    """The architecture's own, or with image_size the same share of the photo at that size."""
    spec = architectures.lookup(config.architecture).preprocessing
    if config.image_size == 0:
        return spec
    return spec.model_copy(update={"crop": config.image_size, "resize": round(spec.resize * config.image_size / spec.crop)})


def _set_numerics(config: TrainConfig, device: Accelerator) -> None:
    if device.device.type == "cuda":
        torch.cuda.set_device(device.device)
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = config.precision != "fp32"  # torch's default, for convolutions, is yes
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when its first handle is made
        torch.use_deterministic_algorithms(True)
