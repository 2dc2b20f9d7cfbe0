"""`simulate`: what the stage's scaling policy would do under a course of traffic, before it is applied. A model, not AWS.

Assumed, not verified on an account: target tracking scales out when the metric was above the target for three points in a
row, and in when it was below 90 % of it for fifteen minutes; the wanted count is count × metric / target, rounded up; one
change at a time; a new instance serves after `--boot-minutes`; a scheduled action sets its bounds on the minute. An instance
answers `--capacity-rps`; with more it holds `--in-flight` requests at once and refuses the rest.
"""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from containers.core.errors import ConfigError
from deploy import scaling_schedule
from deploy.autoscaling import profile
from deploy.context import Context

_OUT_POINTS, _IN_SECONDS, _IN_MARGIN = 3, 900, 0.9
_STEP_SECONDS = 10
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`per_minute`: the metric is invocations per minute and instance, a point a minute; else requests in flight, each 10 s."""

    target: float
    minimum: int
    maximum: int
    scale_in_seconds: int
    scale_out_seconds: int
    per_minute: bool


@dataclass(frozen=True, kw_only=True)
class Server:
    """One instance. `in_flight` is reached at capacity."""

    capacity_rps: float
    in_flight: float
    boot_seconds: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """One entry per 10 s."""

    offered_rps: list[float]
    instances: list[int]
    refused: list[float] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        offered = sum(self.offered_rps) * _STEP_SECONDS
        return {
            "minutes": len(self.instances) * _STEP_SECONDS / 60,
            "requests": round(offered),
            "refused": round(sum(self.refused)),
            "refused_share": sum(self.refused) / offered if offered else 0.0,
            "instance_hours": round(sum(self.instances) * _STEP_SECONDS / 3600, 2),
            "most_instances": max(self.instances),
            "changes": sum(a != b for a, b in zip(self.instances, self.instances[1:], strict=False)),
        }


def simulate(
    traffic: Sequence[float], policy: Policy, server: Server, bounds: Mapping[int, tuple[int, int]] = MappingProxyType({})
) -> Course:
    """`traffic` in requests/s, one value a minute. `bounds`: minute → (minimum, maximum) that a scheduled action sets then;
    at 0, what holds at the beginning. Deterministic.
    """
    low, high = bounds.get(0, (policy.minimum, policy.maximum))
    scaler = _Scaler(replace(policy, minimum=low, maximum=high), server)
    offered, instances, refused = [], [], []
    for step in range(len(traffic) * 60 // _STEP_SECONDS):
        now, rate = step * _STEP_SECONDS, float(traffic[step * _STEP_SECONDS // 60])
        if now % 60 == 0 and now // 60 in bounds:
            scaler.rebound(now, *bounds[now // 60])
        count = scaler.tick(now)
        room = count * server.capacity_rps
        scaler.observe(now, _metric(rate, count, policy, server))
        offered.append(rate)
        instances.append(count)
        refused.append(max(0.0, rate - room) * _STEP_SECONDS)
    return Course(offered_rps=offered, instances=instances, refused=refused)


def _metric(rate: float, count: int, policy: Policy, server: Server) -> float:
    if policy.per_minute:
        return rate * 60 / count
    return server.in_flight * min(1.0, rate / (count * server.capacity_rps))


class _Scaler:
    """Target tracking's two alarms and the wait for new instances."""

    def __init__(self, policy: Policy, server: Server) -> None:
        self._policy, self._server = policy, server
        self._count = self._wanted = policy.minimum
        self._ready_at = self._quiet_until = 0.0
        self._points: list[float] = []
        self._bucket: list[float] = []

    def tick(self, now: float) -> int:
        """How many instances serve from `now` on."""
        if self._wanted > self._count and now >= self._ready_at:
            self._count = self._wanted
        return self._count

    def rebound(self, now: float, low: int, high: int) -> None:
        """A scheduled action: up to its minimum or down to its maximum at once; in between the policy goes on."""
        self._policy = replace(self._policy, minimum=low, maximum=high)
        wanted = min(high, max(low, self._wanted))
        if wanted > self._wanted:
            self._ready_at = now + self._server.boot_seconds
        self._wanted, self._count = wanted, min(self._count, wanted)

    def observe(self, now: float, value: float) -> None:
        self._bucket.append(value)
        if not self._policy.per_minute or len(self._bucket) * _STEP_SECONDS >= 60:
            self._points.append(sum(self._bucket) / len(self._bucket))
            self._bucket.clear()
            if self._wanted == self._count and now >= self._quiet_until:
                self._decide(now)

    def _decide(self, now: float) -> None:
        policy = self._policy
        above = len(self._points) >= _OUT_POINTS and all(p > policy.target for p in self._points[-_OUT_POINTS:])
        low = policy.target * _IN_MARGIN
        calm = _IN_SECONDS // (60 if policy.per_minute else _STEP_SECONDS)
        below = len(self._points) >= calm and all(p < low for p in self._points[-calm:])
        if not (above or below):
            return
        needed = math.ceil(self._count * self._points[-1] / policy.target)
        needed = min(policy.maximum, max(policy.minimum, needed))
        if above and needed > self._count:
            self._wanted, self._ready_at = needed, now + self._server.boot_seconds
            self._quiet_until = self._ready_at + policy.scale_out_seconds
        elif below and needed < self._count:
            self._count = self._wanted = needed
            self._quiet_until = now + policy.scale_in_seconds
        else:
            return
        self._points.clear()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--capacity-rps", type=float, required=True, help="of one instance, from `loadtest`")
    parser.add_argument("--in-flight", type=float, default=8.0, help="requests one instance holds at capacity (8)")
    parser.add_argument("--boot-minutes", type=float, default=6.0, help="until a new instance serves (6)")
    parser.add_argument("--trace", type=Path, help="CSV of requests/s, one value or line a minute; default: a burst")
    parser.add_argument(
        "--start",
        type=datetime.fromisoformat,
        help="when the traffic begins, for scheduled actions: 2026-11-30T06:00 (now; UTC)",
    )
    parser.add_argument("--burst-rps", type=float, default=None, help="the burst's height (twice the capacity)")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises ConfigError for numbers that make no server, a trace that is none, or a stage without scaling."""
    config = context.config
    if config.scaling.profile == "none" or config.endpoint.kind in ("serverless", "async"):
        raise ConfigError(f"stage {config.name} has no policy that this model knows ([scaling] profile, [endpoint] kind)")
    if min(args.capacity_rps, args.in_flight) <= 0 or args.boot_minutes < 0:
        raise ConfigError("--capacity-rps and --in-flight must be above 0, --boot-minutes not below")
    wanted = profile(config)
    policy = Policy(
        target=wanted.target,
        minimum=config.scaling.minimum,
        maximum=config.scaling.maximum,
        scale_in_seconds=wanted.scale_in,
        scale_out_seconds=wanted.scale_out,
        per_minute=config.scaling.profile == "seed",
    )
    server = Server(capacity_rps=args.capacity_rps, in_flight=args.in_flight, boot_seconds=args.boot_minutes * 60)
    traffic = read_trace(args.trace) if args.trace else burst(args.capacity_rps, args.burst_rps or 2 * args.capacity_rps)
    actions = scaling_schedule.course(config.scaling.scheduled, _beginning(args.start, context), len(traffic))
    course = simulate(traffic, policy, server, {minute: action.bounds for minute, action in actions.items()})
    scheduled = [
        {"minute": minute, "action": action.name, "minimum": action.minimum, "maximum": action.maximum}
        for minute, action in actions.items()
    ]
    found = {"policy": asdict(policy), "server": asdict(server), "scheduled": scheduled, "result": course.summary()}
    said = "".join(f"; {row['action']} ({row['minimum']}–{row['maximum']}) at minute {row['minute']}" for row in scheduled)
    context.emit(found, lambda: plot(course, wanted.meaning + said, max(20, context.out.width - 45)))


def _beginning(given: datetime | None, context: Context) -> datetime:
    moment = given or context.clock.now()
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).replace(second=0, microsecond=0)


def burst(capacity_rps: float, height_rps: float) -> list[float]:
    """20 quiet minutes at a tenth of one instance's capacity, 30 of the burst, 60 quiet ones."""
    return [capacity_rps / 10] * 20 + [height_rps] * 30 + [capacity_rps / 10] * 60


def read_trace(path: Path) -> list[float]:
    """Raises ConfigError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            values = [float(cell) for row in csv.reader(file) for cell in row if cell.strip()]
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"--trace {path}: numbers of requests/s are expected, one a minute ({error})") from None
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ConfigError(f"--trace {path}: requests/s must be finite, not below 0, and at least one")
    return values


def plot(course: Course, meaning: str, width: int) -> str:
    """Three rows of bars over time: traffic, instances, refused requests; and what it adds up to."""
    summary = course.summary()
    rows = [
        ("requests/s", course.offered_rps, f"up to {max(course.offered_rps):.1f}"),
        ("instances", [float(count) for count in course.instances], f"up to {summary['most_instances']}"),
        ("refused", course.refused, f"{summary['refused']} requests, {summary['refused_share']:.1%}"),
    ]
    lines = [f"{meaning}; {summary['minutes']:.0f} minutes from left to right"]
    lines += [f"{name:>10} {_bars(values, width)} {said}" for name, values, said in rows]
    return "\n".join([*lines, f"{summary['instance_hours']} instance-hours, {summary['changes']} changes"])


def _bars(values: Sequence[float], width: int) -> str:
    size = max(1, math.ceil(len(values) / width))
    columns = [max(values[start : start + size]) for start in range(0, len(values), size)]
    top = max(columns) or 1.0
    return "".join(_BARS[math.ceil(value / top * (len(_BARS) - 1))] for value in columns)
