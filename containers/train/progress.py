"""Where a run is, as its checkpoints hold it, and where the time of an epoch went."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from containers.train.errors import Interrupted, NotBegun, Uncommitted
from containers.train.evaluation import Scores

Row = dict[str, float | int | str]
"""One epoch's metric line."""


class EpochClock:
    """Where the time of an epoch's training part went, on this rank."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = self._data = self._peers = 0.0
        self.photos = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the next batch."""
        started = time.perf_counter()
        yield
        self._data += time.perf_counter() - started

    def stop(self, peers: float) -> None:
        self._seconds, self._peers = time.perf_counter() - self._started, peers

    def fields(self) -> Row:
        seconds = max(self._seconds, 1e-9)
        return {
            "images_per_second": self.photos / seconds,
            "data_wait_fraction": self._data / seconds,
            "comm_wait_fraction": self._peers / seconds,
            "train_seconds": self._seconds,
        }


@dataclass
class Progress:
    """`samples` counts the running epoch over all ranks; `sums` are its loss, right answers and photos; `skipped` its
    steps that were not taken, and how many in a row until now.
    """

    phase: int = 0
    epoch: int = 0
    samples: int = 0
    phase_step: int = 0
    step: int = 0
    epochs_before: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    skipped: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[Row] = field(default_factory=list)

    @property
    def total_epochs(self) -> int:
        """Evaluations so far, over both phases."""
        return self.epochs_before + self.epoch

    def complete_epoch(
        self, phase: str, world_size: int, sums: list[float], scores: Scores, *, learning_rate: float, clock: EpochClock
    ) -> Row:
        """Move on to the next epoch; returns the metric line of the one that ended. `sums` are as above, over all ranks."""
        loss, right, photos = sums
        self.epoch += 1
        row: Row = {
            "epoch": self.total_epochs,
            "phase": phase,
            "step": self.step,
            "world_size": world_size,
            "train_loss": loss / photos,
            "train_accuracy": right / photos,
            "valid_loss": scores.loss,
            "valid_accuracy": scores.accuracy,
            "valid_top5_accuracy": scores.top5_accuracy,
            "learning_rate": learning_rate,
            **clock.fields(),
        }
        self.history.append(row)
        self.samples, self.sums = 0, [0.0, 0.0, 0.0]
        return row

    def name_best(self, row: Row, loss: float, epoch: int) -> None:
        """Into `row`: the best evaluation so far, of those whose weights are kept; there is none where `epoch` is below 1."""
        if epoch < 1:
            row.pop("best_valid_loss", None)
            row.pop("best_valid_accuracy", None)
            return
        row["best_valid_loss"] = loss
        row["best_valid_accuracy"] = self.history[epoch - 1]["valid_accuracy"]


def interrupted(progress: Progress, phase: str | None, *, saved: bool, committed: bool) -> Interrupted:
    """The end of a run that was asked to stop, in `phase` or between two. `saved`: its checkpoint of now; `committed`: any."""
    if phase is None:
        if not committed:
            return NotBegun("asked to stop before the first step; start the job again to train")
        return Interrupted("asked to stop between two steps; the last checkpoint stands: start the job again to go on")
    when = f"asked to stop at step {progress.step} (phase {phase}, epoch {progress.epoch + 1})"
    if not saved:
        return Uncommitted(f"{when}; the checkpoint could not be written: start the job again, it resumes from the one before")
    return Interrupted(f"{when}; the checkpoint is written: start the job again to go on")
