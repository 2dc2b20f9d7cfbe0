"""What a run tells while it runs: one metric line per epoch, TensorBoard's event files, a progress bar on a terminal.

Only rank 0 tells anything.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from containers.core import logs
from containers.core.metrics import EPOCH_EVENT, FINAL_EVENT, METRICS

_log = logs.get(__name__)
_NAMES = {metric.field: metric.name.replace(":", "/") for metric in METRICS}


class Recorder:
    """`tensorboard_dir` is where SageMaker looks: /opt/ml/output/tensorboard."""

    def __init__(self, tensorboard_dir: Path, *, active: bool) -> None:
        self._active = active
        self._writer = None
        if active:
            from torch.utils.tensorboard import SummaryWriter  # a second of import that the other ranks do not need

            self._writer = SummaryWriter(str(tensorboard_dir))

    def epoch(self, row: Mapping[str, float | int | str]) -> None:
        """`row` has the fields of core.metrics and says which epoch it is."""
        if self._active:
            _log.info(EPOCH_EVENT, extra=dict(row))
            self._scalars(row, int(row["epoch"]))

    def result(self, row: Mapping[str, float | int | str]) -> None:
        if self._active:
            _log.info(FINAL_EVENT, extra=dict(row))
            self._scalars({name: value for name, value in row.items() if name.startswith("test_")}, int(row["epoch"]))

    def _scalars(self, row: Mapping[str, float | int | str], epoch: int) -> None:
        if self._writer is not None:
            for field, name in _NAMES.items():
                if field in row:
                    self._writer.add_scalar(name, float(row[field]), epoch)
            self._writer.flush()

    def bar(self, description: str, total: int, done: int) -> "tqdm[None]":
        """Photos of an epoch; silent where nobody watches."""
        quiet = not self._active or not sys.stderr.isatty()
        return tqdm(desc=description, total=total, initial=done, unit="photo", leave=False, disable=quiet, file=sys.stderr)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
