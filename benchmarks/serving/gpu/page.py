"""The result's page."""

import math
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

Raw = dict[str, Any]
TWIN = "A'"


def text(raw: Raw) -> str:
    """The report as Markdown, of what `measured` found."""
    return "\n".join([raw["where"], "", *_bounds(raw), "", *_windows(raw), "", *_said(raw)]) + "\n"


def _of(raw: Raw, side: str, concurrency: int, name: str) -> float:
    """Median over rounds; NaN where it was not measured."""
    values = [w[name] for w in raw["windows"] if (w["side"], w["concurrency"]) == (side, concurrency)]
    return median(values) if values else float("nan")


def _by_batch(rounds: list[Raw], pick: Callable[[Any], float]) -> dict[str, float]:
    """JSON's keys are strings."""
    return {batch: median(pick(found[batch]) for found in rounds) for batch in rounds[0]}


def _bounds(raw: Raw) -> Iterator[str]:
    rates = _by_batch(raw["forward"], lambda found: found["photos_per_second"])
    times = _by_batch(raw["forward"], lambda found: found["ms"])
    both = _by_batch(raw["pipeline"], float)
    yield "Without a server (medians of the rounds):"
    yield ""
    yield (
        "| batch | forward alone, photos/s | ms per batch | of it the copy to the GPU (from pinned memory) "
        "| before it the copy out of the slots | decode on all cores and forward, photos/s |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    for batch, rate in rates.items():
        pageable, pinned, gather = (raw["copies"][batch][name] for name in ("pageable", "pinned", "gather"))
        yield (
            f"| {batch} | {rate:.0f} | {times[batch]:.2f} | {pageable:.3f} ({pinned:.3f}) | {gather:.3f} "
            f"| {f'{both[batch]:.0f}' if batch in both else '–'} |"
        )
    yield ""
    yield f"Decoding alone, on all cores: {median(raw['decode']):.0f} photos/s."


def _windows(raw: Raw) -> Iterator[str]:
    yield (
        "| side | concurrency | req/s | of the pipeline's best | p50/p99 ms | photos per batch | engine busy | CPU ms/request "
        "| cores of the model process | failures |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    limit = max(_by_batch(raw["pipeline"], float).values())
    for side, concurrency in dict.fromkeys((w["side"], w["concurrency"]) for w in sorted(raw["windows"], key=_place)):
        rate, p50, p99, batch, busy, cpu, model = (
            _of(raw, side, concurrency, name)
            for name in ("rate", "p50_ms", "p99_ms", "batch", "engine_busy", "cpu_ms", "model_cpu")
        )
        failures = sum(w["failures"] for w in raw["windows"] if (w["side"], w["concurrency"]) == (side, concurrency))
        yield (
            f"| {side} | {concurrency} | {rate:.0f} | {rate / limit:.2f} | {p50:.1f}/{p99:.1f} | {batch:.1f} | {busy:.0%} | "
            f"{cpu:.2f} | {model:.2f} | {failures} |"
        )


def _place(window: Raw) -> tuple[int, str]:
    return window["concurrency"], window["side"]


def _said(raw: Raw) -> Iterator[str]:
    twins = [
        f"{abs(_of(raw, 'A', c, 'rate') / (_of(raw, TWIN, c, 'rate') or math.nan) - 1):.1%} at {c}"
        for c in sorted({w["concurrency"] for w in raw["windows"] if w["side"] == TWIN})
    ]
    yield f"- A–A (requests per second): {', '.join(twins)}."
    limits = _by_batch(raw["pipeline"], float)
    ratios = ", ".join(f"{_of(raw, 'A', c, 'rate') / limits['8']:.2f} at {c}" for c in (16, 64, 128))
    yield f"- Over the in-process limit in batches of 8: {ratios}."
    alone, plain = _of(raw, "A", 1, "p50_ms"), _of(raw, "graphs off", 1, "p50_ms")
    rate, slower = _of(raw, "A", 64, "rate"), _of(raw, "graphs off", 64, "rate")
    yield f"- CUDA graphs, on and off: a lone request {alone:.2f} and {plain:.2f} ms; {rate:.0f} and {slower:.0f} req/s at 64."
    for side in dict.fromkeys(w["side"] for w in raw["windows"]):
        largest = max((w for w in raw["windows"] if w["side"] == side), key=lambda w: w["concurrency"])
        sizes = ", ".join(f"{count} of up to {bound}" for bound, count in largest["batches"].items())
        yield f"- Batches of {side} at {largest['concurrency']}, one round: {sizes}."
    busiest = max(raw["windows"], key=lambda w: w["generator_busy"])
    cost = median(w["generators_cpu_ms"] for w in raw["windows"])
    yield (
        f"- The load generators run on the same cores: {cost:.2f} ms of CPU per request; the busiest worked "
        f"{busiest['generator_busy']:.0%} of the time (at {busiest['concurrency']})."
    )
    yield f"- From exec to the first 200 of /ping, all servers at once: {max(raw['startup_seconds'].values()):.1f} s at most."
    yield _gpu_decode(raw["gpu_decode"])


def _gpu_decode(found: Raw) -> str:
    if "absent" in found:
        return f"- Decoding on the GPU was not to be had: {found['absent']}."
    return (
        f"- Decoding on the GPU (nvJPEG through torchvision, batches of 64; tried, no part of the server): "
        f"{found['decode_only']:.0f} photos/s, {found['photos_per_second']:.0f} with the resize; {found['agreement']:.1%} "
        f"of the answers agree with ours, probabilities differ by {found['worst_dp']:.3f} at most."
    )
