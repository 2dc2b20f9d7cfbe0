"""Time that counts against a promise of seconds."""

import time
from contextlib import suppress
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")


class Stopwatch:
    """Since it was made. What a busy machine makes everybody wait for a CPU does not count, where the kernel tells it (pressure
    stall information, docs.kernel.org/accounting/psi.html): on a quiet one these are seconds of the wall's clock.
    """

    def __init__(self) -> None:
        self._began = _now()

    @property
    def seconds(self) -> float:
        return _now() - self._began


def _now() -> float:
    stalled = 0
    with suppress(OSError):  # "some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS"
        stalled = int(_PRESSURE.read_text().split("total=")[1].split()[0])
    return time.monotonic() - stalled / 1e6
