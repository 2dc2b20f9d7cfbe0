"""Load a real server at 80 % of what it can do, kill one of its processes again and again, and count what was lost.

    python -m tests.load.soak --minutes 5

Exit code 0 when every accepted request was answered, save those inside a killed process, and memory did not grow.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import requests

from tests.support import artifacts
from tests.support.mutations import mutated
from tests.support.server import Server, serving, until

CALLERS = 8
AFTERMATH_SECONDS = 3.0  # no kill so close to the end
MEMORY_GROWTH = 0.03


@dataclass
class Tally:
    """What callers saw. `unexpected` holds failures that no kill explains."""

    statuses: Counter = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    excused: int = 0
    latencies: list[float] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def report(self) -> dict:
        third = len(self.megabytes) // 3
        # medians: while a killed process is being replaced there is less for seconds, which is no growth afterwards
        middle, last = statistics.median(self.megabytes[third : 2 * third]), statistics.median(self.megabytes[2 * third :])
        ranked = sorted(self.latencies)
        return {
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "kills": Counter(name for _, name in self.kills),
            "inside_a_killed_process": self.excused,
            "lost": len(self.unexpected),
            "examples": self.unexpected[:5],
            "p50_ms": round(ranked[len(ranked) // 2] * 1000, 1),
            "p99_ms": round(ranked[len(ranked) * 99 // 100] * 1000, 1),
            "memory_mb_middle_third": round(middle, 1),
            "memory_mb_last_third": round(last, 1),
            "memory_growth": round(last / middle - 1, 4),
        }


def capacity(server: Server, photos: list[bytes], seconds: float = 4.0) -> float:
    """Requests per second of a closed loop of CALLERS."""
    stop = time.monotonic() + seconds
    counts = [0] * CALLERS

    def caller(number: int) -> None:
        with requests.Session() as session:
            while time.monotonic() < stop:
                session.post(f"{server.url}/invocations", data=photos[counts[number] % len(photos)], timeout=60)
                counts[number] += 1

    _in_threads(*(partial(caller, number) for number in range(CALLERS)))
    return sum(counts) / seconds


def soak(server: Server, seconds: float, kill_every: float, mutants: float = 0.1) -> Tally:
    """Open loop at 80 % of capacity for `seconds`; every `kill_every` seconds one process dies by SIGKILL.

    A share of `mutants` requests carries a damaged photo, which must be answered with 200 or 4xx.
    """
    photos = [artifacts.photo(seed, (500, 375), "JPEG") for seed in range(16)]
    interval = CALLERS / (0.8 * capacity(server, photos))
    tally, failures = Tally(), []
    began, lock = time.monotonic(), threading.Lock()

    def caller(number: int) -> None:
        chance = random.Random(number)
        session = requests.Session()
        due = began + interval * number / CALLERS
        while due < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            photo = chance.choice(photos)
            photo = mutated(photo, chance) if chance.random() < mutants else photo
            sent = time.monotonic()
            try:
                status = str(session.post(f"{server.url}/invocations", data=photo, timeout=60).status_code)
            except requests.RequestException as error:
                status, session = type(error).__name__, requests.Session()
            now = time.monotonic()
            with lock:
                tally.statuses[status] += 1
                tally.latencies.append(now - sent)
                if status not in ("200", "400", "413", "415", "503"):
                    failures.append((sent, now, status))
            due = max(due + interval, now - 1)

    def killer() -> None:
        names = ("kennel-model", "kennel-front")
        while (next_kill := began + kill_every * (len(tally.kills) + 1)) < began + seconds - AFTERMATH_SECONDS:
            time.sleep(max(0.0, next_kill - time.monotonic()))
            name = names[len(tally.kills) % 2]
            victim = until(lambda name=name: server.processes(name), name)[0]
            tally.kills.append((time.monotonic(), name))
            victim.kill()

    def scales() -> None:
        while time.monotonic() < began + seconds:
            tally.megabytes.append(_memory(server.process.pid))
            time.sleep(seconds / 60)

    _in_threads(killer, scales, *(partial(caller, number) for number in range(CALLERS)))
    _judge(tally, failures)
    return tally


def _judge(tally: Tally, failures: list[tuple[float, float, str]]) -> None:
    """A failure is excused when a process was killed between the sending of the request and its end."""
    for sent, ended, status in failures:
        if any(sent - 0.5 <= kill <= ended + 0.5 for kill, _ in tally.kills):
            tally.excused += 1
        else:
            tally.unexpected.append(status)


def _in_threads(*work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _memory(pid: int) -> float:
    """Proportional memory of a process tree in MB, shared pages counted once."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--model-dir", type=Path, help="default: a tiny model with random weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = arguments.model_dir or Path(scratch) / "model"
        if arguments.model_dir is None:
            artifacts.save(model_dir)
        with serving(model_dir, Path(scratch) / "log", model_processes=2, engine="auto") as server:
            tally = soak(server, arguments.minutes * 60, arguments.kill_every)
    report = tally.report()
    print(json.dumps(report, indent=2))
    return int(bool(tally.unexpected) or report["memory_growth"] > MEMORY_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
