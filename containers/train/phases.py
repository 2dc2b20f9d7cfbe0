"""The two phases as the trainer sees them: what learns, on which batches, and how it is evaluated.

head  the backbone is frozen; on cached features where the head is a Linear layer, else on photos
all   every layer, the backbone more slowly
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from containers.core import architectures, logs
from containers.train import augmentation, batch_norm, evaluation, features
from containers.train.averaging import MovingAverage
from containers.train.data import Batch, PhotoBatches
from containers.train.evaluation import Scores
from containers.train.optimisation import Stepper, class_weights, make_optimizer
from containers.train.run import Run

HEAD, ALL = 0, 1
NAMES = ("head", "all")
_FEATURE_ROWS = 1024
_log = logs.get(__name__)


class Batches(Protocol):
    """`len` is the photos of an epoch; `epoch` yields this rank's part of each step from a sample position on."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, position: int) -> Iterator[Batch]: ...


@dataclass(kw_only=True)
class Phase:
    """`learned` is what checkpoints hold; `replicated` says that every rank computes all of every step."""

    number: int
    epochs: int
    learned: nn.Module
    batches: Batches
    stepper: Stepper
    evaluate: Callable[[], Scores]
    replicated: bool = False
    cached: bool | None = None
    """Of the head phase: whether it learns from features. A resumed run goes on so: the other way is not bitwise the same."""
    average: MovingAverage | None = None
    set_mode: Callable[[], object] = field(default=lambda: None)

    @property
    def name(self) -> str:
        return NAMES[self.number]

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.learned.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "cached": self.cached,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learned.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # of a GPU of another kind, which scaled nothing: this one begins as a new one does
            self.stepper.scaler.load_state_dict(state["scaler"])


def start(run: Run, number: int, saved: Mapping[str, Any] | None = None) -> Phase:
    """Build a phase on `run.model` as it is now; `saved` is the state that it goes on from. Raises StopRequested while features
    are computed.
    """
    run.group.make_module_equal(run.model)
    if number == ALL:
        return _all(run)
    photos = sum(len(photos) for photos in run.index.splits.values())
    cacheable = features.can_cache(run.model, run.config.architecture, photos, run.group.ranks_here)
    possible = all(run.group.gather(cacheable))  # hosts differ in free memory, and all must take the same way
    before = None if saved is None else saved.get("cached")  # None also in checkpoints of an earlier Kennel
    if before and not possible:
        _log.warning("no memory for the features the head was trained on: it goes on with photos, to another result bit by bit")
    return _head_on_features(run) if possible and before is not False else _head_on_photos(run)


def load_weights(run: Run, state: Mapping[str, Any], base: Mapping[str, Tensor] | None) -> None:
    """Make `run.model` what a checkpoint holds: the averaged weights where there are some."""
    if state["progress"]["phase"] == HEAD:
        if base is not None:
            run.model.load_state_dict(base)
        architectures.head(run.model, run.config.architecture).load_state_dict(state["model"])
    else:
        run.model.load_state_dict(averaged(state["average"]) if state["average"] else state["model"])


def averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's state dict out of MovingAverage's."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items() if name.startswith("module.")}


def _weights(run: Run) -> Tensor | None:
    if run.config.class_balance != "weights":
        return None
    return class_weights(run.labels("train"), len(run.index.class_names))


def _head_on_features(run: Run) -> Phase:
    config, group = run.config, run.group
    started = time.monotonic()
    head = architectures.head(run.model, config.architecture)
    with features.headless(run.model, config.architecture) as backbone:
        cache = features.FeatureCache(
            run.job.paths.scratch_dir / "features",
            run.spec,
            group,
            run.loading,
            forward=run.forward(backbone, run.amp_dtype),
            identity=features.backbone_identity(run.model, config.architecture, run.amp_dtype),
            check=run.agreement.check,
        )
        train, valid = (cache.features(run.index.splits[split]) for split in ("train", "valid"))
    fields = {"photos": len(train) + len(valid), "computed": cache.computed, "seconds": round(time.monotonic() - started, 3)}
    _log.info("features", extra=fields)
    labels, num_classes = run.labels("valid"), len(run.index.class_names)

    def evaluate() -> Scores:
        group.make_module_equal(head)  # same arithmetic everywhere, but perhaps not the same processor
        with torch.no_grad():
            rows = features.feature_rows(valid, labels, _FEATURE_ROWS, group)
            forward: Callable[[Tensor], Tensor] = lambda part: head(part.to(group.device))  # noqa: E731
            check = run.agreement.check
            return evaluation.evaluate(group, forward, rows, labels, num_classes, _FEATURE_ROWS, check=check)

    stepper = Stepper(
        head,
        make_optimizer(head, config, ""),
        config,
        group,
        prepare=lambda part: part,
        amp_dtype=None,
        weights=_weights(run),
        replicated=True,
    )
    return Phase(
        number=HEAD,
        epochs=config.head_epochs,
        learned=head,
        batches=features.FeatureBatches(train, run.labels("train"), config, HEAD),
        stepper=stepper,
        evaluate=evaluate,
        replicated=True,
        cached=True,
        set_mode=head.train,
    )


def _head_on_photos(run: Run) -> Phase:
    head = architectures.head(run.model, run.config.architecture)
    run.model.requires_grad_(False)
    head.requires_grad_(True)

    def frozen() -> None:
        run.model.eval()
        head.train()

    return dataclasses.replace(_on_photos(run, HEAD, learned=head, set_mode=frozen), cached=False)


def _all(run: Run) -> Phase:
    run.model.requires_grad_(True)
    if run.config.sync_batchnorm and run.group.device.type == "cuda" and run.group.world_size > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(run.model)  # type: ignore[no-untyped-call]
    average = None
    if decay := run.config.ema_decay:
        average = MovingAverage(run.model, decay)
    return _on_photos(run, ALL, learned=run.model, set_mode=run.model.train, average=average)


def _on_photos(
    run: Run, number: int, *, learned: nn.Module, set_mode: Callable[[], object], average: MovingAverage | None = None
) -> Phase:
    config = run.config
    stepper = Stepper(
        run.model,
        make_optimizer(run.model, config, architectures.head_prefix(config.architecture)),
        config,
        run.group,
        prepare=run.to_input,
        amp_dtype=run.amp_dtype,
        weights=_weights(run),
        mixing=augmentation.batch_mixing(config, len(run.index.class_names)) if number == ALL else None,
        least=batch_norm.least_photos(config.architecture, run.spec.crop) if number == ALL else 1,
        compiling=run.compiling,
    )
    evaluated = average.module if average is not None else run.model
    return Phase(
        number=number,
        epochs=run.epochs(number),
        learned=learned,
        batches=PhotoBatches(run.index.splits["train"], run.spec, config, run.group, run.loading, number),
        stepper=stepper,
        evaluate=lambda: run.evaluate(evaluated, "valid", amp_dtype=run.amp_dtype),
        average=average,
        set_mode=set_mode,
    )
