"""Sides measured in turn, and what may be concluded from them."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

QUIET = 0.10
"""Of A–A, and of the machine's CPU used by others: from here on a row does not count."""
Side = Callable[[], object]


@dataclass
class Load:
    """What the machine did during a row. `foreign`: the share of all cores that processes not of this benchmark used."""

    seconds: float = 0.0
    foreign: float = 0.0
    load_average: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """`lower`: less is better. `spread`: by how much the same side differed from itself, the median over rounds."""

    name: str
    value: float | None
    unit: str = "x"
    goal: float
    floor: float
    spread: float
    detail: str
    lower: bool = False
    raw: Mapping[str, object] = field(default_factory=dict)
    """Everything that was read, in seconds unless its name says otherwise."""

    def verdict(self, during: Load) -> str:
        if self.value is None:
            return "not measured"
        reasons = ["A–A pairs differ too much"] * (self.spread >= QUIET)
        reasons += ["others used too much of the CPU"] * (during.foreign >= QUIET)
        if reasons:
            return f"does not count: {', '.join(reasons)}"
        if math.isnan(self.goal):
            return "no goal"
        sign = -1 if self.lower else 1
        if sign * (self.value - self.goal) >= 0:
            return "goal"
        return "floor" if sign * (self.value - self.floor) >= 0 else "missed"


@dataclass(frozen=True)
class Readings:
    """Seconds per call of each side, one entry per round; `again` is the first side once more, in every round."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    again: list[float]

    def ratio(self, one: str, other: str) -> float:
        """How many times as long `one` takes: the median of the rounds' ratios."""
        return median(a / b for a, b in zip(self.wall[one], self.wall[other], strict=True))

    def cpu_ratio(self, one: str, other: str) -> float:
        return median(a / b for a, b in zip(self.cpu[one], self.cpu[other], strict=True))

    @property
    def spread(self) -> float:
        first = next(iter(self.wall.values()))
        return median(abs(a / b - 1) for a, b in zip(first, self.again, strict=True))

    @property
    def raw(self) -> dict[str, object]:
        return {"wall": self.wall, "cpu": self.cpu, "again": self.again}


def interleaved(sides: Mapping[str, Side], rounds: int) -> Readings:
    """Warm all up, then one after the other and the first again, `rounds` times."""
    for side in sides.values():
        side()
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    again = []
    first = next(iter(sides.values()))
    for _ in range(rounds):
        for name, side in sides.items():
            seconds, cpu_seconds = timed(side)
            wall[name].append(seconds)
            cpu[name].append(cpu_seconds)
        again.append(timed(first)[0])
    return Readings(wall, cpu, again)


def timed(side: Side) -> tuple[float, float]:
    """(wall, CPU) seconds of one call; CPU with the processes it started."""
    wall, cpu = time.perf_counter(), own_cpu()
    side()
    return time.perf_counter() - wall, own_cpu() - cpu


def successive(values: list[float]) -> float:
    """How much runs of one side, one after the other, differ: the median over neighbours."""
    return median(abs(a / b - 1) for a, b in pairwise(values))


def own_cpu() -> float:
    """CPU seconds of this process and all it started, alive or not."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.Error:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def peak_rss_mb(pid: int) -> float:
    """The largest resident size so far of a process and its descendants, added up; shared pages count in each."""
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total / 1024


@contextmanager
def watched() -> Iterator[Load]:
    """Fills what it yields when the block ends."""
    load = Load()
    began, busy, own = time.perf_counter(), _busy(), own_cpu()
    yield load
    load.seconds = time.perf_counter() - began
    cores = psutil.cpu_count() or 1
    load.foreign = max(0.0, (_busy() - busy - (own_cpu() - own)) / load.seconds / cores)
    load.load_average = os.getloadavg()[0]


def _busy() -> float:
    """CPU seconds that the whole machine has used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
