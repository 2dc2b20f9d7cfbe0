"""What a resumed run must agree with, and what may change between the two starts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from containers.core.errors import ConfigError
from containers.train.run import Run

_FREE = {
    "num_workers", "checkpoint_every_seconds", "max_restarts", "min_hosts", "max_bad_fraction", "bad_evaluation_photos",
    "engines", "micro_batch_size", "t4_images_per_second",
}  # fmt: skip
"""Change nothing about what is learned."""
_UPWARD = {"epochs", "patience"}
"""May grow: a run that had ended then goes on."""


def facts(run: Run, pretrained: str) -> dict[str, Any]:
    """Of a run that starts; saved with every checkpoint."""
    return {
        "config": run.config.model_dump(mode="json"),
        "fingerprint": run.index.fingerprint,
        "class_names": list(run.index.class_names),
        "pretrained": pretrained,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def check(saved: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The facts to go on with. Raises ConfigError naming what differs between the checkpoint's run and this one."""
    where = f"the checkpoint in {run.job.paths.checkpoint_dir}"
    remedy = "take the old value, or another checkpoint directory to start anew"
    if saved["class_names"] != list(run.index.class_names) or saved["fingerprint"] != run.index.fingerprint:
        raise ConfigError(
            f"{where} was trained on other photos (names, sizes or classes differ): use another checkpoint directory"
        )
    now = run.config.model_dump(mode="json")
    changed = []
    for key, value in now.items():
        before = saved["config"].get(key, value)
        grown = key in _UPWARD and _at_least(value, before, unlimited=key == "patience")
        if value != before and key not in _FREE and not grown:
            changed.append(f"{key} was {before}, is {value}" + (" (it may only grow)" if key in _UPWARD else ""))
    if changed:
        raise ConfigError(f"{where} belongs to a run with other settings: {'; '.join(changed)}: {remedy}")
    return {**saved, "config": now}


def _at_least(value: int, before: int, *, unlimited: bool) -> bool:
    """0 epochs are none, but patience 0 is endless."""
    return value == 0 or 0 < before <= value if unlimited else value >= before
