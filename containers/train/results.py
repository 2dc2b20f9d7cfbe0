"""What a run leaves behind: the best weights as a model directory, measured once more, explained, and made faster.

The order is: artifact (from then on there is a usable model), report, engines. Only global rank 0 writes.
"""

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from containers.core import VERSION, artifact, logs
from containers.core.errors import ArtifactError
from containers.core.manifest import REPORT_DIR, Calibration, Golden, Manifest, Provenance, verify
from containers.core.manifest import read as read_manifest
from containers.core.preprocessing import decode, prepare
from containers.train import calibration, phases
from containers.train.augmentation import read_photo
from containers.train.calibration import Reliability
from containers.train.checkpoint import Checkpoints
from containers.train.early_stopping import StopReason
from containers.train.errors import TrainingError
from containers.train.evaluation import Scores
from containers.train.progress import Row
from containers.train.run import Run
from containers.train.trainer import Trainer

GOLDEN_SIDE = 96
_log = logs.get(__name__)


@dataclass(frozen=True, kw_only=True)
class Results:
    """What the report shows. `reliability` is of the test photos (validation where there are none), calibrated or not."""

    history: list[Row]
    best_epoch: int
    reason: StopReason
    world_size: int
    """Ranks at the end: a job that may lose hosts begins with more."""
    valid: Scores
    test: Scores | None
    calibration: Calibration
    reliability_before: Reliability
    reliability_after: Reliability
    manifest: Manifest

    @property
    def row(self) -> Row:
        """The last line of the log."""
        ended: Row = {"epoch": len(self.history), "reason": str(self.reason), "world_size": self.world_size}
        return {**ended, "best_epoch": self.best_epoch, **self.manifest.metrics}

    @property
    def shown(self) -> Scores:
        """The scores that the confusion matrix and the per-class table are made of."""
        return self.test or self.valid


def finish(run: Run, trainer: Trainer, checkpoints: Checkpoints, reason: StopReason) -> Results:
    """Load the best weights on every rank, evaluate them in float32, write the model directory. Raises StopRequested."""
    best = checkpoints.load_best()
    if best is None:
        raise TrainingError(
            f"no checkpoint could be written to {run.job.paths.checkpoint_dir}, so there is no model: make room"
        )
    phases.load_weights(run, *best)
    valid = run.evaluate(run.model, "valid", with_logits=True)
    test = run.evaluate(run.model, "test", with_logits=True) if run.index.splits.get("test") else None
    fitted = calibration.fit_temperature(valid.logits, valid.labels)
    shown = test or valid
    before = calibration.reliability(shown.logits.softmax(1), shown.labels)
    after = calibration.reliability((shown.logits / fitted.temperature).softmax(1), shown.labels)
    metrics = {
        "valid_loss": valid.loss,
        "valid_accuracy": valid.accuracy,
        "valid_top5_accuracy": valid.top5_accuracy,
        "valid_macro_f1": float(valid.per_class().f1.mean()),
        "best_epoch": float(trainer.stopping.best_epoch),
        "epochs": float(trainer.progress.total_epochs),
        "calibration_error_before": before.error,
        "calibration_error": after.error,
    }
    if test is not None:
        metrics |= {"test_loss": test.loss, "test_accuracy": test.accuracy, "test_top5_accuracy": test.top5_accuracy}
        metrics["test_macro_f1"] = float(test.per_class().f1.mean())
    manifest = write_model(run, fitted, metrics, trainer.facts)
    return Results(
        history=trainer.progress.history,
        best_epoch=trainer.stopping.best_epoch,
        reason=reason,
        world_size=run.group.world_size,
        valid=valid,
        test=test,
        calibration=fitted,
        reliability_before=before,
        reliability_after=after,
        manifest=manifest,
    )


def keep_usable(run: Run, trainer: Trainer, checkpoints: Checkpoints) -> None:
    """Of a run that ended early: the best model so far, in seconds and without measuring again. Rank 0 alone reads it.

    Where the model directory has that model already, perhaps measured, calibrated and with engines, it stays as it is.
    """
    best = checkpoints.read_best() if run.group.is_first else None
    if best is None or _is_written(run, trainer):
        return
    phases.load_weights(run, *best)
    row = trainer.progress.history[trainer.stopping.best_epoch - 1]
    names = ("valid_loss", "valid_accuracy", "valid_top5_accuracy")
    metrics = {name: float(row[name]) for name in names} | {"best_epoch": float(trainer.stopping.best_epoch)}
    try:
        write_model(run, Calibration(note="not fitted: the run was ended early"), metrics, trainer.facts)
    except TrainingError as error:  # how the run ended is what counts, and the checkpoint has the weights
        _log.error("model not written", extra={"reason": str(error)})


def _is_written(run: Run, trainer: Trainer) -> bool:
    try:
        facts = read_manifest(run.job.paths.model_dir)
        verify(run.job.paths.model_dir, facts)
    except ArtifactError:
        return False
    same_run = facts.provenance.created == trainer.facts["created"]
    return same_run and facts.metrics.get("best_epoch") == float(trainer.stopping.best_epoch)


def write_model(run: Run, fitted: Calibration, metrics: Mapping[str, float], facts: Mapping[str, Any]) -> Manifest:
    """Write `run.model` as the job's model directory, on rank 0. Returns the manifest (elsewhere: as it would be).

    Raises TrainingError where the disk refuses.
    """
    photo = golden_photo(run)
    model = run.model.to("cpu", torch.float32).eval()
    pixels = torch.from_numpy(prepare(decode(photo, run.spec), run.spec).copy())
    with torch.inference_mode():
        logits = model(artifact.normalise(pixels[None], run.spec.mean, run.spec.std))
        probabilities = (logits / fitted.temperature).softmax(1)[0]
    manifest = Manifest(
        architecture=run.config.architecture,
        class_names=run.index.class_names,
        preprocessing=run.spec,
        metrics=dict(metrics),
        calibration=fitted,
        golden=Golden(probabilities=tuple(probabilities.tolist())),
        provenance=Provenance(
            created=facts["created"],
            kennel_version=VERSION,
            torch_version=torch.__version__,
            pretrained=facts["pretrained"],
            dataset=_dataset(run),
            config=run.config.model_dump(mode="json"),
        ),
        files={},
    )
    if run.group.is_first:
        shutil.rmtree(run.job.paths.output_dir / REPORT_DIR, ignore_errors=True)  # the model's own goes with its weights
        try:
            manifest = artifact.save(run.job.paths.model_dir, _plain(model), photo, manifest)
        except OSError as error:
            raise TrainingError(
                f"the model cannot be written to {run.job.paths.model_dir} ({error}): make room and start the job again; "
                "it trains nothing twice"
            ) from error
        # without the numbers: SageMaker would take each for one more of its metric (`core.metrics`)
        _log.info("model written", extra={"directory": str(run.job.paths.model_dir), "best_epoch": metrics["best_epoch"]})
    run.model.to(run.group.device)
    return manifest


def add_engines(run: Run) -> tuple[str, ...]:
    """Give the model that was just written its faster CPU forms, on rank 0. Returns why some were not written."""
    if run.config.engines == "none":
        return ()
    from containers.train import export  # OpenVINO, which nobody else needs

    splits = run.index.splits
    try:
        exported = export.add_engines(
            run.job.paths.model_dir,
            run.config.engines,
            [photo.path for photo in splits["train"]],
            [(photo.path, photo.label) for photo in splits["valid"]],
        )
    except Exception as error:  # noqa: BLE001 - a photo that has gone, memory: a finished training is not lost for them
        _log.exception("engines not written")
        return (f"no engine was written: {type(error).__name__}: {error}",)
    return exported.notes


def golden_photo(run: Run) -> bytes:
    """The first validation photo, tiny, as PNG: lossless, so that everyone decodes the same pixels."""
    image = decode(read_photo(run.index.splits["valid"][0].path))
    image.thumbnail((GOLDEN_SIDE, GOLDEN_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _plain(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _dataset(run: Run) -> dict[str, Any]:
    counts = {split: len(photos) for split, photos in run.index.splits.items()}
    return {
        "fingerprint": run.index.fingerprint,
        "photos": counts,
        "split_made": dict(run.index.split_made),
        "skipped": len(run.index.skipped),
    }
