"""Load on a running server, two ways, and what came of it.

Closed loop: `n` clients, each sending again as soon as it has its answer. It finds capacity, and hides waiting: a slow server
is simply asked less. Open loop: requests start at random moments of a fixed average rate, whether or not earlier ones are
done, and a latency counts from the moment the request was due. It finds what users would see.
"""

import http.client
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np

Outcome = Literal["ok", "refused", "failed"]
_MOST_CLIENTS = 256
_MOST_CHARACTERS = 300  # of what a server says of its refusal


@dataclass(frozen=True, kw_only=True)
class Step:
    """`load` is clients (closed) or requests/s (open). `throughput` counts good answers per second; milliseconds of those."""

    kind: Literal["closed", "open"]
    load: float
    sent: int
    refused: int
    failed: int
    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def bad_share(self) -> float:
        return (self.refused + self.failed) / self.sent if self.sent else 1.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Sender(Protocol):
    """One client. It never raises."""

    def send(self) -> Outcome: ...

    def close(self) -> None: ...


class HttpSender:
    """POSTs one photo, over one connection kept open. 429 and 503 are refusals; other trouble is a failure."""

    def __init__(self, url: str, body: bytes, content_type: str, timeout_seconds: float = 60.0) -> None:
        self._connection = _connection(url, timeout_seconds)
        self._path, self._body = urlsplit(url).path or "/invocations", body
        self._headers = {"Content-Type": content_type}

    def send(self) -> Outcome:
        try:
            return outcome_of(self.ask()[0])
        except (OSError, http.client.HTTPException):
            self.close()
            return "failed"

    def ask(self) -> tuple[int, bytes]:
        """The answer's status and body. Raises OSError, HTTPException; ValueError for a path that is none."""
        self._connection.request("POST", self._path, self._body, self._headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


def outcome_of(status: int) -> Outcome:
    return "ok" if 200 <= status < 300 else "refused" if status in (429, 503) else "failed"


def message_of(body: bytes) -> str:
    """What an answer says of its error, as one short line: the message in its JSON, else all of it."""
    text = body.decode(errors="replace")
    with suppress(ValueError, LookupError, TypeError, RecursionError):  # another server's
        text = str(json.loads(text)["error"]["message"])
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} …"


def ping(url: str, timeout_seconds: float = 5.0) -> int:
    """The HTTP status of the `/ping` of the server whose /invocations or /models/NAME/invoke is `url`.

    Raises OSError, HTTPException; ValueError where `url` is none.
    """
    with closing(_connection(url, timeout_seconds)) as connection:
        connection.request("GET", re.sub("(/models/[^/]+)?/[^/]*$", "", urlsplit(url).path) + "/ping")
        return int(connection.getresponse().status)


def _connection(url: str, timeout_seconds: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.netloc, timeout=timeout_seconds)


def closed(make_sender: Callable[[], Sender], clients: int, seconds: float) -> Step:
    """`clients` of them, as fast as each gets answers."""
    end = time.monotonic() + seconds

    def due() -> Iterator[float]:
        while (now := time.monotonic()) < end:
            yield now

    return _measure("closed", clients, seconds, [due() for _ in range(clients)], make_sender)


def open_loop(make_sender: Callable[[], Sender], rate: float, seconds: float, seed: int = 0) -> Step:
    """Poisson arrivals of `rate` per second. A request that waits for a free client is late from its due moment on."""
    random_numbers, moments, at = random.Random(seed), [], 0.0
    while (at := at + random_numbers.expovariate(rate)) < seconds:
        moments.append(at)
    clients = min(_MOST_CLIENTS, max(8, math.ceil(rate * 2)))
    start, lock, upcoming = time.monotonic() + 0.05, threading.Lock(), iter(moments)

    def due() -> Iterator[float]:
        while True:
            with lock:
                moment = next(upcoming, None)
            if moment is None:
                return
            if (early := start + moment - time.monotonic()) > 0:
                time.sleep(early)
            yield start + moment

    return _measure("open", rate, seconds, [due() for _ in range(clients)], make_sender)


def _measure(
    kind: Literal["closed", "open"],
    load: float,
    seconds: float,
    schedules: list[Iterator[float]],
    make_sender: Callable[[], Sender],
) -> Step:
    """One thread per schedule; each yields the moment from which its next request's latency counts."""
    results: list[tuple[Outcome, float]] = []

    def client(schedule: Iterator[float]) -> None:
        with closing(make_sender()) as sender:
            for moment in schedule:
                outcome = sender.send()
                results.append((outcome, time.monotonic() - moment))  # list.append is atomic

    started = time.monotonic()
    threads = [threading.Thread(target=client, args=(schedule,), daemon=True) for schedule in schedules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = max(seconds, time.monotonic() - started)
    good = [latency * 1000 for outcome, latency in results if outcome == "ok"]
    p50, p95, p99 = (float(value) for value in np.percentile(good, (50, 95, 99))) if good else (math.inf,) * 3
    return Step(
        kind=kind,
        load=load,
        sent=len(results),
        refused=sum(outcome == "refused" for outcome, _ in results),
        failed=sum(outcome == "failed" for outcome, _ in results),
        throughput=len(good) / took,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )
