"""Issue 4's table from the readings: medians over rounds, each ratio beside its floor and goal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.serving.measure import Reading

QUIET = 0.10
"""A reading is marked as disturbed where others used more than this share of the machine."""

_CPU_BOUNDS = {"openvino-fp32": (1.8, 1.5), "openvino-int8": (6.0, 5.0), "none": (2.5, 1.3)}


@dataclass(frozen=True)
class Row:
    """`value` is NaN where it could not be measured; `higher` says which way is better.

    `robust`: a ratio of CPU times or of memory, which others on the machine disturb little.
    """

    claim: str
    value: float
    goal: float
    floor: float
    detail: str
    higher: bool = True
    robust: bool = False

    def verdict(self, disturbed: bool = False) -> str:
        if math.isnan(self.value):
            return "not measured"
        if disturbed and not self.robust:
            return "does not count"
        sign = 1 if self.higher else -1
        by_goal, by_floor = sign * (self.value - self.goal), sign * (self.value - self.floor)
        return "goal" if by_goal >= 0 else "floor" if by_floor >= 0 else "missed"


def rows(readings: Sequence[Reading], limits: dict[str, list[dict[str, object]]]) -> list[Row]:
    every = _Sides(readings)
    found = []
    for engine, goal, floor in (("openvino-fp32", 1.8, 1.5), ("openvino-int8", 6.0, 5.0)):
        own = every.rate(f"kennel {engine} (A)")
        for kind in ("documented", "tuned eager"):
            name, peer = every.best(lambda r, kind=kind: bool(r.peer) and r.side.endswith(kind))  # type: ignore[misc]
            found.append(Row(f"{engine} over the best peer with eager, {kind.split()[0]}", own / peer, goal, floor, name))
        name, peer = every.best(lambda r, engine=engine: bool(r.peer) and r.engine == engine)  # type: ignore[misc]
        found.append(Row(f"{engine} over the peers given the same engine", own / peer, 1.4, 1.2, name))
        found.append(_limit_row(engine, own, limits))
        found += _cpu_rows(engine, every, limits)
    own = every.rate("kennel eager")
    name, peer = every.best(lambda r: bool(r.peer) and r.engine == "eager")
    found.append(Row("eager over the best peer with eager, documented or tuned", own / peer, 1.1, 1.0, name))
    own = every.rate("kennel none")
    name, peer = every.best(lambda r: bool(r.peer) and r.engine == "none")
    found.append(Row("HTTP + decode alone, over the best peer", own / peer, 2.5, 1.3, f"{own:.0f}/s; {name}"))
    found += _cpu_rows("none", every, limits)
    return [*found, *_single_rows(every, limits)]


def _limit_row(engine: str, own: float, limits: dict[str, list[dict[str, object]]]) -> Row:
    limit = median([_number(found["images_per_second"]) for found in limits.get(engine, [])] or [math.nan])
    return Row(f"{engine} over the in-process limit", own / limit, 0.95, 0.88, f"{own:.1f}/s of {limit:.1f}/s")


def _cpu_rows(engine: str, every: "_Sides", limits: dict[str, list[dict[str, object]]]) -> list[Row]:
    """Not of the issue: what a disturbed machine still can tell. Peers with eager, or with no model where ours has none."""
    bare = median([_number(found["cpu_ms"]) for found in limits.get(engine, []) if "cpu_ms" in found] or [math.nan])
    own = every.of(f"kennel {engine}" + " (A)" * (engine != "none"), lambda r: r.cpu_ms)
    theirs = "none" if engine == "none" else "eager"
    pairs = [
        (r.side, every.of(r.side, lambda r: r.cpu_ms)) for r in every.readings if r.peer and r.engine == theirs and r.answers
    ]
    name, best = min(pairs, key=lambda pair: pair[1], default=("none", math.nan))
    return [
        Row(
            f"{engine}: CPU per request, bare loop over server",
            bare / own,
            0.95,
            0.88,
            f"{bare:.1f} ms of {own:.1f} ms",
            robust=True,
        ),
        Row(
            f"{engine}: CPU per request, cheapest peer over ours",
            best / own,
            *_CPU_BOUNDS[engine],
            f"{name} {best:.1f} ms",
            robust=True,
        ),
    ]


def _single_rows(every: "_Sides", limits: dict[str, list[dict[str, object]]]) -> list[Row]:
    engine = "openvino-int8" if limits.get("openvino-int8") else "openvino-fp32"
    side = f"kennel {engine} (A)"
    found = []
    large = [found["large"] for found in limits.get(engine, []) if "large" in found]
    if large:
        ratio = median([each["pillow_ms"] / each["ms"] for each in large])  # type: ignore[index]
        agree = min(each["agreement"] for each in large)  # type: ignore[index]
        found.append(
            Row(
                "12-megapixel decode + preprocess, Pillow's way over ours",
                ratio,
                3,
                2,
                f"answers agree {agree:.3f}",
                robust=True,
            )
        )
    bare = median([_number(each["latency_ms"]) for each in limits.get(engine, [])] or [math.nan])
    alone = every.of(side, lambda r: r.p50_ms.get(1, math.nan))
    found.append(
        Row("idle server: latency over bare", alone / bare, 1.1, 1.25, f"{alone:.1f} ms over {bare:.1f} ms", higher=False)
    )
    spread = every.of(side, lambda r: r.p99_ms.get(16, math.nan) / r.p50_ms.get(16, math.nan))
    found.append(Row("p99 over p50 at concurrency 16", spread, 1.5, 2, "", higher=False))
    goodput = every.of(side, lambda r: r.overload.get("goodput_over_capacity", math.nan))
    refusal = every.of(side, lambda r: r.overload.get("p99_ms_of_refusals", math.nan))
    found.append(Row("overload at twice the capacity: goodput over capacity", goodput, 0.95, 0.86, ""))
    found.append(Row("overload: p99 of refusals, ms", refusal, 25, 100, "", higher=False))
    peers = {r.side for r in every.readings if r.peer and r.engine != "none"}
    for claim, pick, bounds, robust in (
        ("exec to first 200 from /ping, over the fastest peer", lambda r: r.startup_seconds, (0.3, 0.5), False),
        ("memory of all processes (PSS), over the lightest peer", lambda r: r.pss_mb, (0.35, 0.5), True),
    ):
        own = every.of(side, pick)
        name, best = min(((peer, every.of(peer, pick)) for peer in peers), key=lambda pair: pair[1], default=("none", math.nan))
        found.append(
            Row(claim, own / (best or math.nan), *bounds, f"{own:.1f} over {best:.1f} ({name})", higher=False, robust=robust)
        )
    return found


def a_a(readings: Sequence[Reading]) -> dict[str, float]:
    """For each engine measured twice per round: the largest difference between the two, as a share."""
    every = _Sides(readings)
    engines = {r.engine for r in readings if r.side.endswith("(A)")}
    return {
        engine: abs(every.rate(f"kennel {engine} (A)") / every.rate(f"kennel {engine} (A')") - 1) for engine in sorted(engines)
    }


class _Sides:
    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = readings

    def of(self, side: str, pick: Callable[[Reading], float]) -> float:
        return median([pick(reading) for reading in self.readings if reading.side == side] or [math.nan])

    def rate(self, side: str) -> float:
        """Median over rounds of the better of the high concurrencies; NaN where nothing was answered."""
        return self.of(side, lambda r: max([rate for c, rate in r.rates.items() if c >= 16] or [0.0])) or math.nan

    def best(self, among: Callable[[Reading], bool]) -> tuple[str, float]:
        names = {reading.side for reading in self.readings if among(reading)}
        pairs = [(name, self.rate(name)) for name in names if not math.isnan(self.rate(name))]
        name, rate = max(pairs, key=lambda pair: pair[1], default=("none", math.nan))
        return f"{name} {rate:.1f}/s" if pairs else name, rate


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]


def text(found: Sequence[Row], readings: Sequence[Reading], absent: dict[str, str], failed: dict[str, str], where: str) -> str:
    """The report as Markdown."""
    disturbed = sum(reading.foreign > QUIET for reading in readings)
    pairs = a_a(readings)
    counts = not disturbed and all(share < 0.1 for share in pairs.values())
    lines = [where, ""]
    if disturbed:
        lines += [
            f"**Disturbed**: in {disturbed} of {len(readings)} readings others used more than {QUIET:.0%} of the machine's CPU "
            f"(up to {max(r.foreign for r in readings):.0%}). Only ratios of CPU times and of memory count.",
            "",
        ]
    lines += [
        f"A–A: {', '.join(f'{name} {share:.1%}' for name, share in pairs.items()) or 'none'} (a run counts below 10 %).",
        "",
    ]
    lines += ["| claim | measured | goal | floor | reached | against |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.claim} | {_shown(r.value)} | {r.goal:g} | {r.floor:g} | {r.verdict(not counts)} | {r.detail} |" for r in found
    ]
    lines += ["", *_sides_table(readings)]
    lines += [f"\nAbsent: {peer}: {why}" for peer, why in {**absent, **failed}.items()]
    lines += ["\nNot run (optional): TorchServe, Ray Serve, MLServer, Triton through pytriton."]
    return "\n".join(lines) + "\n"


def _sides_table(readings: Sequence[Reading]) -> list[str]:
    every = _Sides(readings)
    concurrencies = sorted({c for reading in readings for c in reading.rates})
    head = " | ".join(f"c={c}: req/s, p50/p99 ms" for c in concurrencies)
    lines = [
        f"| side | {head} | CPU ms/request | PSS MB | start s | failures | foreign CPU |",
        "| --- |" + " --- |" * (len(concurrencies) + 5),
    ]
    for side in dict.fromkeys(reading.side for reading in readings):
        cells = [
            f"{every.of(side, lambda r, c=c: r.rates[c]):.1f}, "  # type: ignore[misc]
            f"{every.of(side, lambda r, c=c: r.p50_ms.get(c, math.nan)):.0f}/"  # type: ignore[misc]
            f"{every.of(side, lambda r, c=c: r.p99_ms.get(c, math.nan)):.0f}"  # type: ignore[misc]
            for c in concurrencies
        ]
        cpu, pss = every.of(side, lambda r: r.cpu_ms), every.of(side, lambda r: r.pss_mb)
        start, foreign = every.of(side, lambda r: r.startup_seconds), every.of(side, lambda r: r.foreign)
        failures = sum(r.failures for r in readings if r.side == side)
        lines.append(f"| {side} | {' | '.join(cells)} | {cpu:.1f} | {pss:.0f} | {start:.1f} | {failures} | {foreign:.0%} |")
    return lines
