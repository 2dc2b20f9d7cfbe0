"""Issue 4's table from the readings: medians over rounds, each ratio beside its floor and goal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.serving.measure import Reading
from benchmarks.serving.medians import Pick, Sides, rate

SAME = 0.10
"""A claim counts where the same side, measured twice (A and A'), differs by less than this in what the claim is about."""

_CPU_BOUNDS = {"openvino-fp32": (1.8, 1.5), "openvino-int8": (6.0, 5.0), "none": (2.5, 1.3)}
Limits = dict[str, list[dict[str, object]]]


@dataclass(frozen=True)
class Row:
    """`value` is NaN where it could not be measured; `higher` says which way is better.

    `robust`: a ratio of CPU times or of memory, which others on the machine disturb little. `a_a`: how much A and A' differ,
    NaN where the side ran once. `disturbed`: a reading that this row rests on was.
    """

    claim: str
    value: float
    goal: float
    floor: float
    detail: str
    higher: bool = True
    robust: bool = False
    a_a: float = math.nan
    disturbed: bool = False

    def verdict(self, disturbed: bool = False) -> str:
        if math.isnan(self.value):
            return "not measured"
        if ((disturbed or self.disturbed) and not self.robust) or self.a_a >= SAME:
            return "does not count"
        sign = 1 if self.higher else -1
        by_goal, by_floor = sign * (self.value - self.goal), sign * (self.value - self.floor)
        return "goal" if by_goal >= 0 else "floor" if by_floor >= 0 else "missed"


def rows(readings: Sequence[Reading], limits: Limits) -> list[Row]:
    every = Sides(readings)
    found = []
    for engine, goal, floor in (("openvino-fp32", 1.8, 1.5), ("openvino-int8", 6.0, 5.0)):
        for kind in ("documented", "tuned eager"):
            claim = f"{engine} over the best peer with eager, {kind.split()[0]}"
            found.append(_over_peers(every, claim, engine, goal, floor, lambda r, kind=kind: r.side.endswith(kind)))  # type: ignore[misc]
        claim = f"{engine} over the peers given the same engine"
        same = _over_peers(every, claim, engine, 1.4, 1.2, lambda r, engine=engine: r.engine == engine)  # type: ignore[misc]
        found.append(replace(same, detail=f"{same.detail}{_ceiling(same, every.rate(every.own(engine)), engine, limits)}"))
        found += [_limit_row(engine, every, limits), *_cpu_rows(engine, every, limits)]
    claim = "eager over the best peer with eager, documented or tuned"
    found.append(_over_peers(every, claim, "eager", 1.1, 1.0, lambda r: r.engine == "eager"))
    found.append(_over_peers(every, "HTTP + decode alone, over the best peer", "none", 2.5, 1.3, lambda r: r.engine == "none"))
    return [*found, *_cpu_rows("none", every, limits), *_single_rows(every, limits)]


def _over_peers(every: Sides, claim: str, engine: str, goal: float, floor: float, among: Callable[[Reading], bool]) -> Row:
    own = every.own(engine)
    name, best = every.best(lambda r: bool(r.peer) and among(r))
    detail = "none" if math.isnan(best) else f"{name} {best:.1f}/s; ours {every.rate(own):.1f}/s"
    return Row(
        claim, every.rate(own) / best, goal, floor, detail, a_a=every.twins(engine, rate), disturbed=every.disturbed(own, name)
    )


def _ceiling(row: Row, ours: float, engine: str, limits: Limits) -> str:
    """What the ratio would be if HTTP cost nothing: the bare loop in our server's place."""
    if math.isnan(row.value) or not limits.get(engine):
        return ""
    return f"; the bare loop would reach {median(_rates(engine, limits)) / (ours / row.value):.2f}"


def _rates(engine: str, limits: Limits) -> list[float]:
    return [_number(found["images_per_second"]) for found in limits.get(engine, [])] or [math.nan]


def _limit_row(engine: str, every: Sides, limits: Limits) -> Row:
    """The limit is measured before every round: it must repeat, too."""
    rates = _rates(engine, limits)
    own, limit = every.own(engine), median(rates)
    detail = f"{every.rate(own):.1f}/s of {limit:.1f}/s ({min(rates):.1f} to {max(rates):.1f})"
    a_a = max(max(rates) / min(rates) - 1, every.twins(engine, rate))  # in this order: the twins may be NaN
    claim = f"{engine} over the in-process limit"
    return Row(claim, every.rate(own) / limit, 0.95, 0.88, detail, a_a=a_a, disturbed=every.disturbed(own))


def _cpu_rows(engine: str, every: Sides, limits: Limits) -> list[Row]:
    """Not of the issue: what a disturbed machine still can tell. Peers with eager, or with no model where ours has none."""
    bare = median([_number(found["cpu_ms"]) for found in limits.get(engine, []) if "cpu_ms" in found] or [math.nan])
    own, twins = every.of(every.own(engine), _cpu_ms), every.twins(engine, _cpu_ms)
    theirs = "none" if engine == "none" else "eager"
    pairs = [(r.side, every.of(r.side, _cpu_ms)) for r in every.readings if r.peer and r.engine == theirs and rate(r)]
    name, best = min(pairs, key=lambda pair: pair[1], default=("none", math.nan))
    detail = f"{bare:.1f} ms of {own:.1f} ms"
    goal, floor = _CPU_BOUNDS[engine]
    return [
        Row(f"{engine}: CPU per request, bare loop over server", bare / own, 0.95, 0.88, detail, robust=True, a_a=twins),
        Row(
            f"{engine}: CPU per request, cheapest peer over ours",
            best / own,
            goal,
            floor,
            f"{name} {best:.1f} ms; ours {own:.1f} ms",
            robust=True,
            a_a=twins,
        ),
    ]


def _single_rows(every: Sides, limits: Limits) -> list[Row]:
    engine = "openvino-int8" if limits.get("openvino-int8") else "openvino-fp32"
    side = every.own(engine)

    def own(claim: str, goal: float, floor: float, pick: Pick, over: float = 1.0, peer: str = "", **more: bool) -> Row:
        value = every.of(side, pick)
        detail = "" if over == 1.0 else f"{value:.1f} over {over:.1f}{peer and f' ({peer})'}"
        twins, noise = every.twins(engine, pick), every.disturbed(side, peer)
        return Row(claim, value / over, goal, floor, detail, **{"higher": False, **more}, a_a=twins, disturbed=noise)

    found = []
    large = [found["large"] for found in limits.get(engine, []) if "large" in found]
    if large:
        ratio = median([each["pillow_ms"] / each["ms"] for each in large])  # type: ignore[index]
        agree = min(each["agreement"] for each in large)  # type: ignore[index]
        claim = "12-megapixel decode + preprocess, Pillow's way over ours"
        found.append(Row(claim, ratio, 3, 2, f"answers agree {agree:.3f}", robust=True))
    bare = median([_number(each["latency_ms"]) for each in limits.get(engine, [])] or [math.nan])
    found.append(own("idle server: latency over bare", 1.1, 1.25, lambda r: _at(r.p50_ms, 1), bare))
    found.append(own("p99 over p50 at concurrency 16", 1.5, 2, lambda r: _at(r.p99_ms, 16) / _at(r.p50_ms, 16)))
    claim, goodput = "overload at twice the capacity: goodput over capacity", _overload("goodput_over_capacity")
    found.append(own(claim, 0.95, 0.86, goodput, higher=True))
    found.append(own("overload: p99 of refusals, ms", 25, 100, _overload("p99_ms_of_refusals")))
    peers = {r.side for r in every.readings if r.peer and r.engine != "none"}
    for claim, pick, goal, floor, robust in (
        ("exec to first 200 from /ping, over the fastest peer", lambda r: r.startup_seconds, 0.3, 0.5, False),
        ("memory of all processes (PSS), over the lightest peer", lambda r: r.pss_mb, 0.35, 0.5, True),
    ):
        pairs = [(peer, every.of(peer, pick)) for peer in peers]
        name, best = min(pairs, key=lambda pair: pair[1], default=("none", math.nan))
        found.append(own(claim, goal, floor, pick, best or math.nan, name, robust=robust))
    return found


def _cpu_ms(reading: Reading) -> float:
    return reading.cpu_ms


def _overload(what: str) -> Pick:
    return lambda reading: reading.overload.get(what, math.nan)


def _at(values: dict[int, float], concurrency: int) -> float:
    return values.get(concurrency, math.nan)


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
