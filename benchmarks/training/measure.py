"""Pairs of measurements, interleaved, and what may be concluded from them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.training.sides import Side

QUIET = 0.10


@dataclass(frozen=True, kw_only=True)
class Row:
    """`value` is better when it is higher, unless `lower`. `spread` is how much the same side differed from itself."""

    name: str
    value: float
    goal: float
    floor: float
    spread: float
    detail: str
    lower: bool = False

    @property
    def verdict(self) -> str:
        if self.spread >= QUIET:
            return "busy: does not count"
        sign = -1 if self.lower else 1
        return (
            "goal" if sign * (self.value - self.goal) >= 0 else "floor" if sign * (self.value - self.floor) >= 0 else "missed"
        )


CLAIMS = {
    "end to end over tensors in memory, ResNet-50": (0.97, 0.93),
    "over the reference, loader-bound": (1.8, 1.4),
    "over the reference, ResNet-50": (1.03, 0.98),
    "own cost per step, ms": (0.3, 1.0),
    "two gloo ranks over one, equal cores": (0.95, 0.85),
    "head phase on cached features, 20 epochs": (18.0, 10.0),
    "SIGTERM to exit with a checkpoint, s": (5.0, 20.0),
}
"""Goal and floor. Where the goal is the smaller number, less is better."""


def claimed(name: str, value: float, spread: float, detail: str) -> Row:
    goal, floor = CLAIMS[name]
    return Row(name=name, value=value, goal=goal, floor=floor, spread=spread, detail=detail, lower=goal < floor)


@dataclass(frozen=True)
class Pairs:
    """Seconds per call of two sides, measured in turn; `again` is the first side once more, in every round."""

    first: list[float]
    second: list[float]
    again: list[float]
    cpu_first: list[float]
    cpu_second: list[float]

    @property
    def ratio(self) -> float:
        """How many times as long the second takes."""
        return median(b / a for a, b in zip(self.first, self.second, strict=True))

    @property
    def cpu_ratio(self) -> float:
        return median(b / a for a, b in zip(self.cpu_first, self.cpu_second, strict=True))

    @property
    def spread(self) -> float:
        return median(abs(a / b - 1) for a, b in zip(self.first, self.again, strict=True))


def interleaved(first: Side, second: Side, rounds: int, repeat: int = 1) -> Pairs:
    """Warm both up, then first, second, first … `repeat` calls are one measurement."""
    first()
    second()
    found: list[list[float]] = [[], [], [], [], []]
    for _ in range(rounds):
        for side, wall, cpu in ((first, 0, 3), (second, 1, 4), (first, 2, None)):
            seconds, cpu_seconds = timed(side, repeat)
            found[wall].append(seconds)
            if cpu is not None:
                found[cpu].append(cpu_seconds)
    return Pairs(*found)


def timed(side: Callable[[], object], repeat: int = 1) -> tuple[float, float]:
    """(wall, CPU) seconds of one call. CPU without child processes."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        side()
    return (time.perf_counter() - wall) / repeat, (time.process_time() - cpu) / repeat


def table(rows: Sequence[Row], where: str) -> str:
    lines = [
        f"| {r.name} | {r.value:.3g} | {r.goal:g} | {r.floor:g} | {r.spread:.0%} | {r.verdict} | {r.detail} |" for r in rows
    ]
    head = "| claim | measured | goal | floor | A–A | counts as | detail |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    return f"{where}\n\n{head}" + "\n".join(lines) + "\n"
