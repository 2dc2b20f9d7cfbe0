"""Load a real server at 80 % of what it can do, kill one of its processes again and again, and count what was lost.

    python -m tests.load.soak --minutes 30 --mutants 20000

Exit code 0 when every accepted request was answered, save those inside a killed process, most were accepted, no other process
died, the log holds no unexpected error, and neither memory nor descriptors grew.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil
import requests

from tests.load.tally import FRONT, MODEL, SPARED, Kill, Tally, faults
from tests.support import artifacts
from tests.support.mutations import mutated, small_photos
from tests.support.server import Server, serving, until

CALLERS = 8
AFTERMATH_SECONDS = 3.0  # no kill so close to the end


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


def soak(server: Server, seconds: float, kill_every: float, mutants: int) -> Tally:
    """Open loop at 80 % of capacity for `seconds`; every `kill_every` seconds one process dies by SIGKILL,
    never one of SPARED.

    Later where the last one that died has not been replaced yet: a server without any model is another test's business.
    `mutants` of the requests, spread evenly, carry a damaged photo, which must be answered with 200 or 4xx.
    """
    photos = [artifacts.photo(seed, (500, 375), "JPEG") for seed in range(16)]
    small = small_photos()
    until(lambda: _whole(server), "every model process serves", patience=600)
    interval = CALLERS / (0.8 * capacity(server, photos))
    tally = Tally(damaged_wanted=mutants)
    began, lock = time.monotonic(), threading.Lock()

    def damage_next() -> bool:
        """Whether the schedule of damaged photos, which ends a little before the soak, is behind."""
        with lock:
            behind = tally.damaged_sent < min(mutants, mutants * (time.monotonic() - began) / (0.95 * seconds))
            tally.damaged_sent += behind
        return behind

    def caller(number: int) -> None:
        chance = random.Random(number)
        session = requests.Session()
        due = began + interval * number / CALLERS
        while due < began + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            damaged = damage_next()
            photo = mutated(chance.choice(small + photos[:2]), chance) if damaged else chance.choice(photos)
            sent = time.monotonic()
            try:
                status = str(session.post(f"{server.url}/invocations", data=photo, timeout=60).status_code)
            except requests.RequestException as error:
                status, session = type(error).__name__, requests.Session()
            now = time.monotonic()
            with lock:
                tally.count(sent, now, status, damaged)
            due = max(due + interval, now - 1)

    def killer() -> None:
        chance = random.Random(0)
        while (next_kill := began + kill_every * (len(tally.kills) + 1)) < began + seconds - AFTERMATH_SECONDS:
            time.sleep(max(0.0, next_kill - time.monotonic()))
            until(lambda: _whole(server), "every model process serves", patience=600)
            kind = (MODEL, FRONT)[len(tally.kills) % 2]
            victim = chance.choice(until(lambda kind=kind: _mortal(server, kind), kind))
            at = time.monotonic()
            victim.kill()
            tally.kills.append(Kill(at, kind, victim.pid, done=time.monotonic()))

    def scales() -> None:
        while time.monotonic() < began + seconds:
            tally.watched.update(_living(server))
            if _whole(server):  # one that still loads weighs less, which would hide growth or look like it
                tally.weigh(server.process.pid)
            time.sleep(min(5.0, seconds / 60))

    _in_threads(killer, scales, *(partial(caller, number) for number in range(CALLERS)))
    tally.judge(alive=set(_living(server)))
    tally.unexpected_errors = len(server.events("unexpected error"))
    return tally


def _whole(server: Server) -> bool:
    try:
        lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    except requests.RequestException:  # of the front that was killed
        return False
    gauges = dict(line.rsplit(" ", 1) for line in lines if line.startswith("kennel_model_processes"))
    return gauges["kennel_model_processes_ready"] == gauges["kennel_model_processes"]


def _mortal(server: Server, kind: str) -> list[psutil.Process]:
    """Those of this kind that may be killed."""
    spared = [pid for pid, name in _living(server).items() if name in SPARED]
    return [process for process in server.processes(kind) if process.pid not in spared]


def _living(server: Server) -> dict[int, str]:
    found = {}
    for process in server.processes("kennel-"):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = process.name()
    return found


def _in_threads(*work: Callable[[], None]) -> None:
    """Raises what one of them raised, once all have ended."""
    with ThreadPoolExecutor(len(work)) as pool:
        for running in [pool.submit(each) for each in work]:
            running.result()


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--mutants", type=int, default=1000, help="damaged photos among the requests")
    parser.add_argument("--model-dir", type=Path, help="default: a tiny model with random weights")
    parser.add_argument("--result", type=Path, metavar="FOLDER", help="also write soak-serving-DATE.json there")
    given = parser.parse_args()
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = given.model_dir or Path(scratch) / "model"
        if given.model_dir is None:
            artifacts.save(model_dir)
        with serving(model_dir, Path(scratch) / "log", model_processes=2, engine="auto") as server:
            tally = soak(server, given.minutes * 60, given.kill_every, given.mutants)
    report = {
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "command": "python -m tests.load.soak "
        f"--minutes {given.minutes:g} --kill-every {given.kill_every:g} --mutants {given.mutants}",
        "machine": f"{os.cpu_count()} cores, load average {os.getloadavg()[2]:.1f}, Python {platform.python_version()}",
        **tally.report(),
    }
    report["faults"] = faults(report)
    text = json.dumps(report, indent=2)
    print(text)
    if given.result:
        (given.result / f"soak-serving-{started:%Y-%m-%d-%H%M}.json").write_text(text + "\n", encoding="utf-8")
    return int(bool(report["faults"]))


if __name__ == "__main__":
    sys.exit(main())
