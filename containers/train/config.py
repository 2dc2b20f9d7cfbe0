"""The hyperparameters. Torch-free: `deploy` checks them before anything is sent.

The docstring under a field says who would change it; it is also the flag's help.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from containers.core.settings import Settings

ArchitectureName = Literal[
    "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s",
    "convnext_tiny", "squeezenet1_1", "vit_b_16", "efficientnet_lite0",
]  # fmt: skip
"""Those of `core.architectures`, which needs torch."""


class TrainConfig(Settings):
    """Defaults are chosen for a task of 133 dog breeds with 6,680 photos; not measured there yet."""

    architecture: ArchitectureName = "resnet50"
    """Which classifier. Change it for a smaller or faster model."""
    pretrained: Literal["auto", "none"] = "auto"
    """auto: ImageNet weights from the `pretrained` channel, else the image, else torchvision's download. none: from scratch."""
    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Side of the square the model sees; 0 takes the architecture's own. Smaller is faster and coarser."""
    head_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of phase 1, which trains only the head, on cached features. 0 skips it."""
    epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of phase 2, which trains every layer. 0 skips it."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Photos per optimiser step over all ranks together. Lower it only if results get worse, not for memory."""
    micro_batch_size: Annotated[int, Field(ge=0)] = 0
    """Photos per rank in one forward pass; 0 lets memory decide. Lower it when the GPU runs out of memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw is forgiving; sgd for those who tune."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak rate of the head, at the batch size given. The first thing to tune."""
    backbone_lr_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The backbone learns this much slower than the head. Raise it for photos unlike ImageNet's."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """On weights only, never on biases and norms."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of sgd."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of a phase's steps in which the rate rises before the cosine."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Lower it when probabilities must be sharp."""
    augmentation: Literal["none", "light", "randaugment"] = "light"
    """none: centre crop. light: random crop and flip. randaugment: colours and shapes too, for long runs."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup; 0 is off. For long runs on small data."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of cutmix; 0 is off."""
    clip_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 is off."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are evaluated and exported in phase 2; 0 is off. 0.999 for long, noisy runs."""
    class_balance: Literal["none", "weights", "sampler"] = "none"
    """For unequal classes: weigh the loss, or draw rare classes more often."""
    patience: Annotated[int, Field(ge=0)] = 5
    """Evaluations without improvement before a phase ends; 0 never stops early."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Validation loss must fall by more than this to count as an improvement."""
    stop_on_nonfinite: bool = True
    """A loss that is NaN or infinite ends the run. false: the step is skipped, and said; 100 in a row, or an epoch of
    them, end the run all the same. For a long run that a few odd photos or a rare overflow must not end."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything random. Change it to repeat a run."""
    deterministic: bool = False
    """Bitwise repeatable on the same kind of device, and slower."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """auto: bf16 from sm_80 on, fp16 with scaling on a T4, fp32 on a CPU."""
    torch_compile: bool = False
    """Compile what trains on photos: the first step takes minutes, so that the others take less. For long runs on a GPU, with
    an image built with COMPILE=1."""
    sync_batchnorm: bool = False
    """One batch-norm statistic over all GPUs. For very few photos per GPU; slower."""
    gradient_compression: bool = False
    """Send gradients as fp16 between hosts. When the log shows a high comm_wait_fraction."""
    num_workers: Annotated[int, Field(ge=-1)] = -1
    """Loader processes per rank; -1 derives it from cores and shared memory."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Unreadable training photos up to this share are named and skipped; more end the run."""
    bad_evaluation_photos: Literal["error", "skip"] = "error"
    """skip: in valid and test too, up to the same share of each. Where photos cannot be mended and a smaller test will do."""
    checkpoint_every_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Also checkpointed at every epoch and when asked to stop."""
    resume: Literal["auto", "weights"] = "auto"
    """auto: go on from the checkpoint; photos, and settings that change what is learned, must be its own. weights: where they
    differ, begin a new run from the best model there, of the same architecture and classes. For more photos, another recipe."""
    max_restarts: Annotated[int, Field(ge=0, le=3)] = 0
    """How often a lost worker restarts the group from the last checkpoint."""
    min_hosts: Annotated[int, Field(ge=0)] = 0
    """Of several hosts, how many must be left for the job to go on without those it lost; 0: all. For hosts of your own that
    may be taken away; SageMaker itself ends a job of which one host ends."""
    engines: Literal["none", "fp32", "int8"] = "int8"
    """CPU engines written beside the weights; int8 includes fp32 and must pass its accuracy gate."""
    t4_images_per_second: Annotated[float, Field(ge=0)] = 0.0
    """For the report's costs, where the run is not on a T4: what you expect of one. 0: what is derived for ResNet-50."""

    @model_validator(mode="after")
    def _some_training(self) -> Self:
        if self.head_epochs == 0 and self.epochs == 0:
            raise ValueError("head_epochs and epochs are both 0: nothing would be trained")
        if self.torch_compile and self.sync_batchnorm:
            raise ValueError("torch_compile and sync_batchnorm exclude each other: the two were never seen to work together")
        if 0 < self.image_size < 32:
            raise ValueError("image_size must be 0 (the architecture's own) or at least 32")
        return self
