"""python -m tests.faults.soak --events 200 --seed 7: the long version of what CI does with 20 events (make soak).

Five lanes, each a process of its own with a seed of its own, side by side; the same seed schedules the same events in each. A
dated result goes to benchmarks/results, also where an invariant did not hold.
"""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import psutil

from tests.faults import clock, invariants
from tests.faults.invariants import Broken

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
RESULTS = ROOT / "benchmarks" / "results"
SHARES = {"ranks": 0.30, "training": 0.20, "two hosts": 0.10, "serving": 0.25, "network": 0.15}
"""Of all events. Three in five are a training job's: kill -9, SIGTERM, a lost peer, damage."""
TRAINING = ("ranks", "training", "two hosts")
Done = Callable[[str], None]


def shares(events: int) -> dict[str, int]:
    """How many events each lane has; one at least, and `events` together."""
    counts = {lane: max(1, int(events * share)) for lane, share in SHARES.items()}
    counts[next(iter(counts))] += events - sum(counts.values())
    return counts


def _ranks(folder: Path, count: int, seed: int, done: Done) -> None:
    from tests.faults import ranks

    ranks.Ranks(folder, seed, done).disturb(ranks.schedule(count, seed))


def _training(folder: Path, count: int, seed: int, done: Done) -> None:
    from tests.faults import training

    training.Tree(_photos(folder), folder / "jobs", seed, done).disturb(training.schedule(count, seed))


def _two_hosts(folder: Path, count: int, seed: int, done: Done) -> None:
    from tests.faults import two_hosts

    two_hosts.Pair(_photos(folder), folder / "jobs", done).disturb(two_hosts.schedule(count, seed))


def _serving(folder: Path, count: int, seed: int, done: Done) -> None:
    from tests.faults import serving

    lane = serving.Serving(folder, seed, done, clock.Clock(folder / "clock"))
    try:
        lane.disturb(serving.schedule(count, seed))
    finally:
        lane.close()


def _network(folder: Path, count: int, seed: int, done: Done) -> None:
    from tests.faults import network

    lane = network.Network(folder, seed, done)
    try:
        lane.disturb(network.schedule(count, seed))
    finally:
        lane.close()


def _photos(folder: Path) -> Path:
    from tests.support import hosts

    hosts.few(PHOTOS, folder / "photos", {"train": 8, "valid": 3, "test": 2})
    return folder / "photos"


LANES = {"ranks": _ranks, "training": _training, "two hosts": _two_hosts, "serving": _serving, "network": _network}


def _run_lane(lane: str, folder: Path, count: int, seed: int, news: "Queue[tuple[str, str, str]]") -> None:
    """In a process of its own: tells of each event, and in the end "end" or what broke."""
    os.setpgrp()
    folder.mkdir(parents=True)
    try:
        LANES[lane](folder, count, seed, lambda hit: news.put((lane, "event", hit)))
    except Broken as broken:
        news.put((lane, "broken", str(broken)))
    except BaseException:  # noqa: BLE001 - a fault of the test itself ends the soak too, and says so
        news.put((lane, "broken", traceback.format_exc()))
    invariants.kill(psutil.Process().children(recursive=True))
    news.put((lane, "end", ""))


def run(events: int, seed: int, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Every event of every lane; `broken` in what is returned says which invariants did not hold."""
    began, spawn, counts = time.monotonic(), multiprocessing.get_context("spawn"), shares(events)
    news = spawn.Queue()
    processes = {
        lane: spawn.Process(target=_run_lane, args=(lane, folder / lane.replace(" ", "-"), count, seed + number, news))
        for number, (lane, count) in enumerate(counts.items())
    }
    hits: list[dict[str, Any]] = []
    broken: list[str] = []
    seconds: dict[str, int] = {}
    try:
        for process in processes.values():
            process.start()
        while len(seconds) < len(processes):
            lane, what, text = _next(news, processes, seconds)
            if what == "end":
                seconds[lane] = round(time.monotonic() - began)
            elif what == "broken":
                broken.append(f"{lane}: {text}")
            else:
                hits.append({"lane": lane, "event": text, "second": round(time.monotonic() - began)})
            say(f"{time.monotonic() - began:6.0f} s  {len(hits):3d}/{events}  {lane}: {text or what}")
    finally:
        for process in processes.values():
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "events": len(hits),
        "wanted": events,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "of_training": sum(hit["lane"] in TRAINING for hit in hits),
        "broken": broken,
        "seconds_of_lanes": seconds,
        "counts": _counts(hits),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.0f} at the end",
        "hits": hits,
    }


def _next(news: "Queue[tuple[str, str, str]]", processes: dict[str, Any], ended: dict[str, int]) -> tuple[str, str, str]:
    """The next word of a lane; of one whose process died without one, that."""
    while True:
        try:
            return news.get(timeout=5)
        except Exception as error:  # queue.Empty, spelt differently by context
            if type(error).__name__ != "Empty":
                raise
        for lane, process in processes.items():
            if lane not in ended and not process.is_alive() and news.empty():
                return lane, "end", f"its process ended with {process.exitcode}" if process.exitcode else ""


def _counts(hits: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for hit in hits:
        kind = hit["event"].partition(" -> ")[0].partition(" (")[0]
        counts.setdefault(hit["lane"], Counter())[kind] += 1
    return {lane: dict(sorted(kinds.items())) for lane, kinds in counts.items()}


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Faults from a seeded schedule, every invariant checked.")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--result", type=Path, help="default: benchmarks/results/soak-faults-DATE.json")
    given = parser.parse_args()
    if not clock.available():
        print(f"soak: {clock.MISSING}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kennel-soak-") as folder:
        result = run(given.events, given.seed, Path(folder), lambda line: print(line, flush=True))
    path = given.result or RESULTS / f"soak-faults-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['events']} events, {len(result['broken'])} invariants broken, {result['seconds']} s: {path}")
    for line in result["broken"]:
        print(line, file=sys.stderr)
    return int(bool(result["broken"]) or result["events"] < given.events)


if __name__ == "__main__":
    sys.exit(main())
