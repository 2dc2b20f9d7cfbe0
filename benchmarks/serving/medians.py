"""Medians over rounds, and how much two sides that are the same differ."""

import math
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.serving.measure import Reading

QUIET = 0.10
"""A reading is disturbed where others used more than this share of the machine."""

Pick = Callable[[Reading], float]


def rate(reading: Reading) -> float:
    """The better of the high concurrencies."""
    return max([rate for c, rate in reading.rates.items() if c >= 16] or [0.0])


class Sides:
    """Rounds in which a side answered nothing, then those that were disturbed, are left out where the side has others."""

    def __init__(self, readings: Sequence[Reading], *, drop: bool = True) -> None:
        self.readings = list(readings)
        for good in (lambda r: any(r.rates.values()), lambda r: r.foreign <= QUIET) if drop else ():
            sides = {reading.side for reading in self.readings if good(reading)}
            self.readings = [reading for reading in self.readings if good(reading) or reading.side not in sides]

    def own(self, engine: str) -> str:
        """The name of Kennel's side."""
        return next((r.side for r in self.readings if r.side == f"kennel {engine} (A)"), f"kennel {engine}")

    def of(self, side: str, pick: Pick) -> float:
        return median([pick(reading) for reading in self.readings if reading.side == side] or [math.nan])

    def twins(self, engine: str, pick: Pick) -> float:
        """How much A and A' differ, as a share; NaN without both."""
        first, second = (self.of(f"kennel {engine} ({mark})", pick) for mark in ("A", "A'"))
        return abs(first / second - 1) if second else math.nan

    def disturbed(self, *names: str) -> bool:
        return any(reading.foreign > QUIET for reading in self.readings if reading.side in names)

    def rate(self, side: str) -> float:
        """Median over rounds; NaN where nothing was answered."""
        return self.of(side, rate) or math.nan

    def best(self, among: Callable[[Reading], bool]) -> tuple[str, float]:
        names = {reading.side for reading in self.readings if among(reading)}
        pairs = [(name, self.rate(name)) for name in names if not math.isnan(self.rate(name))]
        return max(pairs, key=lambda pair: pair[1], default=("none", math.nan))


def a_a(readings: Sequence[Reading]) -> dict[str, float]:
    """For each engine measured twice per round: the difference in requests per second of all rounds, as a share."""
    every = Sides(readings, drop=False)
    return {engine: every.twins(engine, rate) for engine in sorted({r.engine for r in readings if r.side.endswith("(A)")})}
