"""What phase 2 of this run would cost on SageMaker's two smallest T4 instances: an estimate that says what it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

from containers.train.progress import Row

_ASSUMED_PHOTOS_PER_SECOND = 400.0
"""ResNet-50 at 224 pixels with mixed precision on a T4: derived from its memory bandwidth, not measured (docs/training.md)."""
_DOLLARS_PER_HOUR = {"ml.g4dn.xlarge": 0.736, "ml.g4dn.2xlarge": 0.94}
"""Assumed, for training on demand; never looked up. Regions differ and prices change."""
_SPOT_SHARE = 0.4
_GPU = "T4"


@dataclass(frozen=True)
class Cost:
    instance: str
    hours: float
    on_demand: float
    spot: float


@dataclass(frozen=True)
class Estimate:
    rows: tuple[Cost, ...]
    basis: str


def estimate(photos: int, gpu: str, history: Sequence[Row], *, ranks: int = 1, expected: float = 0.0) -> Estimate:
    """On one instance. `photos` are all that phase 2 trains on, over its epochs.

    The rate is that of `history`, made by as many GPUs as each row says (`ranks` where it does not), where all of them are
    T4s; else `expected`, the user's own figure, where it is not 0; else an assumption.
    """
    known = [row for row in history if row["phase"] == "all" and row["images_per_second"]]  # 0: resumed at the epoch's end
    rows_of = known if _GPU in gpu else []
    measured = sorted(float(row["images_per_second"]) / int(row.get("world_size", ranks)) for row in rows_of)
    rate = measured[len(measured) // 2] if measured else expected or _ASSUMED_PHOTOS_PER_SECOND
    hours = photos / rate / 3600
    rows = [Cost(name, hours, hours * price, hours * price * _SPOT_SHARE) for name, price in _DOLLARS_PER_HOUR.items()]
    prices = ", ".join(f"{name} ${price}" for name, price in _DOLLARS_PER_HOUR.items())
    unmeasured = "assumed: your own t4_images_per_second" if expected else "assumed for ResNet-50 at 224 pixels on a T4"
    counts = " and ".join(str(count) for count in dict.fromkeys(row.get("world_size", ranks) for row in rows_of))
    source = f"measured in this run on {counts} T4" if measured else f"{unmeasured}, not measured"
    return Estimate(
        tuple(rows),
        f"{photos} photos at {rate:.0f} photos/s ({source}); prices assumed: {prices} an hour, spot at {_SPOT_SHARE:.0%} "
        "of that; without start-up, evaluation and storage.",
    )
