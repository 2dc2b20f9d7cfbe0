"""Prometheus metrics, summed over all processes of the server, and one JSON line per request.

Every process writes its numbers into files of PROMETHEUS_MULTIPROC_DIR (set before this module is imported; memory, never a
disk); any front can answer `/metrics`. Files are named after their process, and the one that replaces a dead process goes on
with its files: so the sums keep what it counted, and the files do not become more with every death.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from containers.serve import process

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # before the first metric is made
    values.ValueClass = values.MultiProcessValue(process.name)  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter("kennel_requests", "Requests answered", ["route", "status"])
REQUEST_SECONDS = Histogram("kennel_request_seconds", "From the first byte read to the answer, /invocations", buckets=_SECONDS)
PHOTOS = Counter("kennel_photos", "Photos by outcome", ["outcome"])
DECODE_SECONDS = Histogram("kennel_decode_seconds", "Decode and resize, per photo", buckets=_SECONDS)
WAIT_SECONDS = Histogram("kennel_wait_seconds", "In a slot: queue and forward pass, per photo", buckets=_SECONDS)
FORWARD_SECONDS = Histogram("kennel_forward_seconds", "One batch through the engine", buckets=_SECONDS)
BATCH_PHOTOS = Histogram("kennel_batch_photos", "Photos per batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))


@contextmanager
def forward(photos: int) -> Iterator[None]:
    """Times one batch."""
    started = time.perf_counter()
    yield
    FORWARD_SECONDS.observe(time.perf_counter() - started)
    BATCH_PHOTOS.observe(photos)


class Now(Collector):
    """Gauges read at the moment of the scrape: name → (help, function). `models`: names and folders of models' servers."""

    def __init__(
        self,
        gauges: dict[str, tuple[str, Callable[[], float]]],
        models: Callable[[], Iterable[tuple[str, Path]]] = tuple,
    ) -> None:
        self._gauges = gauges
        self.models = models

    def collect(self) -> Iterable[Metric]:
        for name, (meaning, read) in self._gauges.items():
            yield GaugeMetricFamily(name, meaning, value=read())


class _Counted(Collector):
    """What the processes of this server have counted, and under the label `model` those of each model's server.

    `models`: name and folder. A family of metrics is there once, as the text format asks.
    """

    def __init__(self, models: Iterable[tuple[str, Path]]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        families = {family.name: family for family in MultiProcessCollector(None).collect()}  # type: ignore[no-untyped-call]
        for name, folder in self._models:
            with suppress(OSError, ValueError):  # it was unloaded a moment ago
                for family in MultiProcessCollector(None, str(folder)).collect():  # type: ignore[no-untyped-call]
                    known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    known.samples += [sample._replace(labels={**sample.labels, "model": name}) for sample in family.samples]
        return families.values()


def exposition(now: Now) -> bytes:
    """The text of `/metrics` (Prometheus text format 0.0.4)."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry.register(_Counted(now.models()))
    registry.register(now)
    return generate_latest(registry)
