"""What a run tells while it runs: one metric line per epoch, TensorBoard's event files, a progress bar on a terminal.

Only rank 0 tells anything.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from containers.core import logs
from containers.core.metrics import EPOCH_EVENT, FINAL_EVENT, METRICS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logs.get(__name__)
_NAMES = {metric.field: metric.name.replace(":", "/") for metric in METRICS}


class Recorder:
    """`tensorboard_dir` is where SageMaker looks: /opt/ml/output/tensorboard.

    A disk that refuses event files ends them, with a warning, and nothing else: the log has the same numbers.
    """

    def __init__(self, tensorboard_dir: Path, *, active: bool) -> None:
        self._active = active
        self._writer: SummaryWriter | None = None
        if active:
            from torch.utils import tensorboard  # a second of import that the other ranks do not need

            with self._as_long_as_it_works():
                self._writer = tensorboard.SummaryWriter(str(tensorboard_dir))

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
            with self._as_long_as_it_works():
                for field, name in _NAMES.items():
                    if field in row:
                        self._writer.add_scalar(name, float(row[field]), epoch)
                self._writer.flush()

    @contextlib.contextmanager
    def _as_long_as_it_works(self) -> Iterator[None]:
        """Tensorboard's own thread writes, and is dead from its first error on."""
        try:
            yield
        except OSError as error:
            self._writer = None
            _log.warning("no more TensorBoard files", extra={"reason": str(error)})

    def bar(self, description: str, total: int, done: int) -> "tqdm[None]":
        """Photos of an epoch; silent where nobody watches."""
        quiet = not self._active or not sys.stderr.isatty()
        return tqdm(desc=description, total=total, initial=done, unit="photo", leave=False, disable=quiet, file=sys.stderr)

    def close(self) -> None:
        if self._writer is not None:
            with self._as_long_as_it_works():
                self._writer.close()
