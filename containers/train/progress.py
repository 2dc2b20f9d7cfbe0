"""Where a run is, as its checkpoints hold it, and where the time of an epoch went."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

Row = dict[str, float | int | str]
"""One epoch's metric line."""


@dataclass
class Progress:
    """`samples` counts the running epoch over all ranks; `sums` are its loss, right answers and photos."""

    phase: int = 0
    epoch: int = 0
    samples: int = 0
    phase_step: int = 0
    step: int = 0
    epochs_before: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list[Row] = field(default_factory=list)

    @property
    def total_epochs(self) -> int:
        """Evaluations so far, over both phases."""
        return self.epochs_before + self.epoch


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
