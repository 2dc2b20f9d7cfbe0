"""What a run begins with: the checkpoint of its own earlier start, the weights of another run, or pretrained ones."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from containers.core import logs
from containers.core.errors import ConfigError
from containers.train import phases
from containers.train.checkpoint import Checkpoints
from containers.train.progress import Progress
from containers.train.restored import Restored
from containers.train.run import Run

_FREE = {
    "num_workers", "checkpoint_every_seconds", "max_restarts", "min_hosts", "max_bad_fraction", "bad_evaluation_photos",
    "resume", "stop_on_nonfinite", "engines", "micro_batch_size", "t4_images_per_second", "torch_compile",
}  # fmt: skip
"""Change nothing about what is learned."""
_UPWARD = {"epochs", "patience"}
"""May grow: a run that had ended then goes on."""
_NAMED = 5
_log = logs.get(__name__)


def begin(run: Run, checkpoints: Checkpoints, pretrained: Callable[[], str]) -> tuple[dict[str, Any], Restored | None]:
    """(the run's facts, the checkpoint to go on from; None where this run begins, with `run.model` as it is then).

    `pretrained` gives the model its first weights, and their name, where no checkpoint does. Call on every rank. Raises
    ConfigError where the checkpoint is of a run that this one can neither go on with nor begin from.
    """
    restored = checkpoints.restore()
    if restored is None:
        if run.config.resume == "weights":
            _log.warning("resume is weights and no checkpoint is there; the run begins as any other")
        return facts(run, pretrained()), None
    saved = restored.state["facts"]
    other_photos = saved["class_names"] != list(run.index.class_names) or saved["fingerprint"] != run.index.fingerprint
    changed = _changed(saved["config"], run.config.model_dump(mode="json"))
    if not other_photos and not changed:
        return {**saved, "config": run.config.model_dump(mode="json")}, restored
    where = f"the checkpoint in {run.job.paths.checkpoint_dir}"
    if run.config.resume == "weights":
        _check_fits(saved, run, where)
        return facts(run, _take_weights(run, checkpoints, restored)), None
    remedy = "to leave that run behind and begin a new one from its best model, set resume to weights"
    if other_photos:
        was = "was trained on other photos (names, sizes or classes differ)"
        raise ConfigError(f"{where} {was}: use another checkpoint directory, or, {remedy}")
    old = "take the old value, or another checkpoint directory to start anew"
    raise ConfigError(f"{where} belongs to a run with other settings: {'; '.join(changed)}: {old}, or, {remedy}")


def facts(run: Run, pretrained: str) -> dict[str, Any]:
    """Of a run that begins; saved with every checkpoint, for `begin` to compare. `pretrained`: where its weights are from."""
    return {
        "config": run.config.model_dump(mode="json"),
        "fingerprint": run.index.fingerprint,
        "class_names": list(run.index.class_names),
        "pretrained": pretrained,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what makes this another run. What an earlier Kennel did not know is as it is now."""
    changed = []
    for key, value in now.items():
        was = before.get(key, value)
        grown = key in _UPWARD and _at_least(value, was, unlimited=key == "patience")
        if value != was and key not in _FREE and not grown:
            changed.append(f"{key} was {was}, is {value}" + (" (it may only grow)" if key in _UPWARD else ""))
    return changed


def _at_least(value: int, before: int, *, unlimited: bool) -> bool:
    """0 epochs are none, but patience 0 is endless."""
    return value == 0 or 0 < before <= value if unlimited else value >= before


def _check_fits(saved: Mapping[str, Any], run: Run, where: str) -> None:
    """Raises ConfigError where the weights are no model for these classes: the head has a row for each, in their order."""
    before, now = saved["config"]["architecture"], run.config.architecture
    if before != now:
        raise ConfigError(f"resume is weights, but {where} has those of {before}, not of {now}: set architecture to {before}")
    had, has = list(saved["class_names"]), list(run.index.class_names)
    if had != has:
        gone, new = ([name for name in one if name not in other] for one, other in ((had, has), (has, had)))
        differ = "; ".join(f"{what}: {_some(names)}" for what, names in (("not here", gone), ("new", new)) if names)
        raise ConfigError(
            f"resume is weights, but {where} tells other classes apart ({differ or 'in another order'}): train on the same "
            "classes, or use another checkpoint directory"
        )


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _take_weights(run: Run, checkpoints: Checkpoints, restored: Restored) -> str:
    """Make `run.model` the best of the run that left `restored`, or what it was last where nothing of it was evaluated. Returns
    where they are from. The files stay until this run has checkpoints of its own.
    """
    best = checkpoints.load_best()
    state, base = best if best is not None else (restored.state, restored.base)
    phases.load_weights(run, state, base)
    checkpoints.forget_best()
    progress, begun = Progress(**state["progress"]), restored.state["facts"]["created"]
    why = "as its best was lost" if restored.best_lost else "before any evaluation"
    which = f"epoch {progress.total_epochs}" if best is not None else f"step {progress.step}, {why},"
    source = f"{which} of the run begun at {begun}"
    _log.info("beginning with the weights of another run", extra={"weights": source, "file": restored.file})
    return source
