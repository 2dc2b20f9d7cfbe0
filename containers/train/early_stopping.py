"""When to stop, and which epoch is the best: a pure state machine over the sequence of validation losses.

Two different questions, two different thresholds:
* patience: an improvement must beat `reference` by more than `min_delta`; only then does the reference move, so a slow
  creep never counts and never accumulates;
* best: the strictly smallest loss ever seen, ties keep the earlier epoch.
"""

import enum
import math
from dataclasses import dataclass
from typing import Any

from containers.core.errors import ConfigError


class StopReason(enum.StrEnum):
    """Why a run ended. A run that was merely interrupted has none: it goes on when started again."""

    EPOCHS = "all epochs done"
    PATIENCE = "validation loss stopped improving"


@dataclass(frozen=True)
class Verdict:
    is_best: bool
    stop: bool


class EarlyStopping:
    """`update` once per evaluation. NaN and infinity are never an improvement and never the best."""

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        if patience < 0 or not min_delta >= 0:
            raise ConfigError(f"patience {patience} and min_delta {min_delta} must not be negative")
        self.patience = patience
        self.min_delta = min_delta
        self.reference = math.inf
        self.wait = 0
        self.best_value = math.inf
        self.best_epoch = -1

    @property
    def exhausted(self) -> bool:
        """True when `wait` has reached `patience`; patience 0 never stops."""
        return 0 < self.patience <= self.wait

    def update(self, value: float, epoch: int) -> Verdict:
        """Count one evaluation; `epoch` only names it."""
        is_best = math.isfinite(value) and value < self.best_value
        if is_best:
            self.best_value, self.best_epoch = value, epoch
        if math.isfinite(value) and (math.isinf(self.reference) or value < self.reference - self.min_delta):
            self.reference, self.wait = value, 0
        else:
            self.wait += 1
        return Verdict(is_best, self.exhausted)

    def best_is_still(self, value: float, epoch: int) -> None:
        """Take back a best whose weights could not be kept: the model of a run is one that exists. Patience is not touched."""
        self.best_value, self.best_epoch = value, epoch

    def enter_phase(self) -> None:
        """A new phase gets the whole patience; what was best stays best."""
        self.wait = 0

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.reference, "wait": self.wait, "best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reference, self.wait = float(state["reference"]), int(state["wait"])
        self.best_value, self.best_epoch = float(state["best_value"]), int(state["best_epoch"])
