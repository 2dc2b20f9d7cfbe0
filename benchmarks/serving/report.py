"""The result's page: the claims, then every side."""

import math
from collections.abc import Sequence

from benchmarks.serving.claims import SAME, Row
from benchmarks.serving.measure import Reading
from benchmarks.serving.medians import QUIET, Sides, a_a

_LEGEND = (
    'The claim on peers "as their users run them" is the rows "documented"; "tuned" (one single-threaded worker per core) and '
    "CPU per request are rows of our own, held to the same bounds."
)


def text(found: Sequence[Row], readings: Sequence[Reading], absent: dict[str, str], failed: dict[str, str], where: str) -> str:
    """The report as Markdown."""
    disturbed = sum(reading.foreign > QUIET for reading in readings)
    lines = [where, ""]
    if disturbed:
        lines += [
            f"**Disturbed**: in {disturbed} of {len(readings)} readings others used more than {QUIET:.0%} of the machine's CPU "
            f"(up to {max(r.foreign for r in readings):.0%}). Of the claims that rest on them only those on CPU times and "
            "memory count.",
            "",
        ]
    pairs = ", ".join(f"{name} {share:.1%}" for name, share in a_a(readings).items())
    lines += [f"A–A: {pairs or 'none'} (requests per second, all rounds; a claim counts below {SAME:.0%} in its own).", ""]
    lines += ["| claim | measured | goal | floor | reached | A–A | against |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.claim} | {_shown(r.value)} | {r.goal:g} | {r.floor:g} | {r.verdict()} | "
        f"{'–' if math.isnan(r.a_a) else f'{r.a_a:.1%}'} | {r.detail} |"
        for r in found
    ]
    lines += ["", _LEGEND, "", *_sides_table(readings)]
    lines += [f"\nAbsent: {peer}: {why}" for peer, why in {**absent, **failed}.items()]
    lines += ["\nNot run (optional): TorchServe, Ray Serve, MLServer, Triton through pytriton."]
    return "\n".join(lines) + "\n"


def _sides_table(readings: Sequence[Reading]) -> list[str]:
    every = Sides(readings)
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


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
