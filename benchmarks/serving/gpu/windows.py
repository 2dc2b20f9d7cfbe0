"""One window of load on one server: several load generators, since one Python thread cannot offer what a GPU answers."""

import multiprocessing
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serving.load import Load, Result, request
from benchmarks.serving.machine import Server

_LEAD_SECONDS = 0.5
_GENERATORS = 4
_requests: list[bytes] = []


@dataclass(frozen=True, kw_only=True)
class Window:
    """`rate`: answers per second. `batch`: photos per batch on average, `batches` how many there were of each size (up to the
    key, above the one before). `engine_busy`: share of the time in which the engine computed, over all model processes;
    `model_cpu`: cores that the model processes kept busy; `cpu_ms`: of the whole server, per answer. `generator_busy`: share
    of the time in which the busiest load generator worked, `generators_cpu_ms` of all of them per answer.
    """

    side: str
    concurrency: int
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    failures: int
    batch: float
    engine_busy: float
    model_cpu: float
    cpu_ms: float
    generator_busy: float
    generators_cpu_ms: float
    batches: dict[str, int] = field(default_factory=dict)


class Generators:
    """Processes that share a window's connections evenly."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(_GENERATORS, _remember, (list(requests),))

    def closed(self, port: int, concurrency: int, seconds: float) -> tuple[Result, list[float]]:
        """`concurrency` requests in flight at any time; also the CPU seconds that each generator took."""
        shares = [len(range(number, concurrency, _GENERATORS)) for number in range(_GENERATORS)]
        found = self._pool.starmap(_load, [(port, share, seconds) for share in shares if share], chunksize=1)
        whole = Result(seconds)
        for result, _ in found:
            for status, values in result.seconds.items():
                whole.seconds.setdefault(status, []).extend(values)
            for status, count in result.outside.items():
                whole.outside[status] = whole.outside.get(status, 0) + count
        return whole, [spent for _, spent in found]

    def stop(self) -> None:
        self._pool.terminate()
        self._pool.join()


def _remember(requests: list[bytes]) -> None:
    _requests.extend(requests)


def _load(port: int, connections: int, seconds: float) -> tuple[Result, float]:
    began = time.process_time()
    return Load(port, _requests).closed(connections, seconds, _LEAD_SECONDS), time.process_time() - began


def measure(server: Server, generators: Generators, side: str, concurrency: int, number: int, seconds: float) -> Window:
    models = [psutil.Process(pid) for pid in server.pids() if psutil.Process(pid).name().startswith("kennel-model")]
    before, spent, model, began = counts(server), server.cpu_seconds(), _cpu(models), time.perf_counter()
    result, generator = generators.closed(server.port, concurrency, seconds)
    wall = time.perf_counter() - began
    delta = {name: value - before.get(name, 0.0) for name, value in counts(server).items()}
    answers = max(result.answers, 1)
    return Window(
        side=side,
        concurrency=concurrency,
        round=number,
        rate=round(result.rate, 1),
        p50_ms=round(result.percentile_ms(0.5), 2),
        p99_ms=round(result.percentile_ms(0.99), 2),
        failures=result.failures,
        batch=round(delta["kennel_batch_photos_sum"] / max(delta["kennel_batch_photos_count"], 1), 2),
        engine_busy=round(delta["kennel_forward_seconds_sum"] / wall / max(len(models), 1), 5),
        model_cpu=round((_cpu(models) - model) / wall, 3),
        cpu_ms=round((server.cpu_seconds() - spent) / answers * 1000, 3),
        generator_busy=round(max(generator) / wall, 3),
        generators_cpu_ms=round(sum(generator) / answers * 1000, 3),
        batches=_of_each_size(delta),
    )


def counts(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _of_each_size(delta: dict[str, float]) -> dict[str, int]:
    """Prometheus counts what is at most as large as each bound."""
    head, before, found = 'kennel_batch_photos_bucket{le="', 0.0, {}
    bounds = {name.removeprefix(head).rstrip('"}'): value for name, value in delta.items() if name.startswith(head)}
    for bound, value in sorted(bounds.items(), key=lambda pair: float(pair[0])):
        found[bound.removesuffix(".0")] = int(value - before)
        before = value
    return {bound: count for bound, count in found.items() if count}


def _cpu(processes: Sequence[psutil.Process]) -> float:
    return sum(float(times.user + times.system) for times in (process.cpu_times() for process in processes))


def requests_of(photos: Path) -> list[bytes]:
    return [request("/invocations", path.read_bytes(), "image/jpeg") for path in sorted(photos.iterdir())]
