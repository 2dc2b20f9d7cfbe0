"""The measurements, side by side in rounds: `Reading`s are all that the report needs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving import machine
from benchmarks.serving.load import Load, Result
from benchmarks.serving.sides import Side

_OVERLOADED = ("openvino-fp32", "openvino-int8")  # engines whose server is also offered twice its capacity
_LEAD_SECONDS = 2.0


@dataclass
class Reading:
    """One side in one round. `rates`, `p50_ms`, `p99_ms` by concurrency.

    `foreign` is the largest share of the machine's CPU that neither the server nor the load generator used in a window.
    `cpu_seconds` and `answers`: what the server spent, and for how many requests, in the windows of 16 and more.
    """

    side: str
    peer: str
    engine: str
    startup_seconds: float
    pss_mb: float = 0.0
    foreign: float = 0.0
    failures: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    p50_ms: dict[int, float] = field(default_factory=dict)
    p99_ms: dict[int, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    answers: int = 0
    overload: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Reading":
        """What `asdict` and JSON made of one: JSON's keys are strings."""
        numbered = {name: {int(key): value for key, value in raw[name].items()} for name in ("rates", "p50_ms", "p99_ms")}
        return cls(**{**raw, **numbered})

    @property
    def cpu_ms(self) -> float:
        """Of the server, per request: comparable even where others use the machine too."""
        return self.cpu_seconds / self.answers * 1000 if self.answers else float("nan")


@dataclass(frozen=True)
class Plan:
    """Seconds of a window, the concurrencies, and how many rounds."""

    seconds: float
    concurrencies: tuple[int, ...]
    rounds: int
    warm_up: float


def read(side: Side, plan: Plan, subject: Path, python: Path, logs: Path, *, overload: bool) -> Reading:
    """Start one side, measure it, stop it. Raises RuntimeError where it does not come up."""
    photos = [path.read_bytes() for path in sorted((subject / "photos").iterdir())]
    server = side.start(subject, python, logs)
    reading = Reading(side.name, side.peer, side.engine, round(server.startup_seconds, 2))
    try:
        load = Load(server.port, side.requests(photos))
        load.closed(4, plan.warm_up)
        for concurrency in plan.concurrencies:
            result = _window(server, reading, load, concurrency, plan.seconds)
            reading.rates[concurrency] = round(result.rate, 2)
            if result.rate:
                reading.p50_ms[concurrency] = round(result.percentile_ms(0.5), 1)
                reading.p99_ms[concurrency] = round(result.percentile_ms(0.99), 1)
            reading.failures += result.failures
        reading.pss_mb = round(server.pss_mb(), 1)
        capacity = max(reading.rates.values())
        if overload and capacity:
            result = load.open(2 * capacity, 2 * plan.seconds, _LEAD_SECONDS)
            reading.overload = {
                "offered": round(2 * capacity, 1),
                "goodput_over_capacity": round(result.rate / capacity, 3),
                "refused": len(result.seconds.get(503, ())),
                "lost": len(result.seconds.get(0, ())),
            }
            if reading.overload["refused"]:
                reading.overload["p99_ms_of_refusals"] = round(result.percentile_ms(0.99, 503), 1)
    finally:
        server.stop()
    return reading


def _window(server: machine.Server, reading: Reading, load: Load, concurrency: int, seconds: float) -> Result:
    began, busy, own, ours = time.perf_counter(), machine.busy_seconds(), time.process_time(), server.cpu_seconds()
    result = load.closed(concurrency, seconds, _LEAD_SECONDS)
    wall = (time.perf_counter() - began) * (os.cpu_count() or 1)
    spent = server.cpu_seconds() - ours
    foreign = (machine.busy_seconds() - busy - spent - (time.process_time() - own)) / wall
    reading.foreign = round(max(reading.foreign, foreign, 0.0), 3)
    if concurrency >= 16:
        reading.cpu_seconds += spent
        reading.answers += result.answers
    return result


def rounds(
    sides: Sequence[Side], engines: Sequence[str], plan: Plan, subject: Path, python: Path, logs: Path
) -> tuple[list[Reading], dict[str, list[dict[str, object]]], dict[str, str]]:
    """Every side once per round, and the in-process limit of each of `engines` just before the first side with it.

    Also returns the limits by engine and the sides that failed.
    """
    readings: list[Reading] = []
    limits: dict[str, list[dict[str, object]]] = {engine: [] for engine in engines}
    failed: dict[str, str] = {}
    for number in range(plan.rounds):
        order = sides if number % 2 == 0 else list(reversed(sides))
        for side in order:
            if side.engine in limits and len(limits[side.engine]) == number:
                limits[side.engine].append(_limit(subject, side.engine, plan.seconds))
            if side.name in failed:
                continue
            try:
                found = read(side, plan, subject, python, logs, overload=not side.peer and side.engine in _OVERLOADED)
            except RuntimeError as error:
                failed[side.name] = str(error)
                continue
            readings.append(found)
            print(json.dumps({"round": number, **asdict(found)}), file=sys.stderr, flush=True)
    return readings, limits, failed


def _limit(subject: Path, engine: str, seconds: float) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.serving.limit", str(subject), engine, str(seconds)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found
