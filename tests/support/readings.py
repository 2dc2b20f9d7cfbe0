"""Readings of the serving benchmark, made up."""

from benchmarks.serving.measure import Reading


def reading(side: str, rate: float, *, peer: str = "", engine: str = "eager", **more) -> Reading:
    rates = {1: rate / 2, 16: rate, 64: rate * 0.9}
    return Reading(
        side,
        peer,
        engine,
        more.pop("start", 2.0),
        rates=rates,
        p50_ms=dict.fromkeys(rates, 10.0),
        p99_ms=dict.fromkeys(rates, 14.0),
        **more,
    )
