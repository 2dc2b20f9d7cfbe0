"""Events for a training job on this machine: one of its processes is killed, it is asked to stop, what it saved is damaged."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import invariants
from tests.faults.invariants import hold
from tests.faults.record import Lineage
from tests.faults.trees import PARTS, Host, Started

KINDS = (
    "kill a rank",
    "kill a loader",
    "kill the launcher",
    "kill the first process",
    "ask it to stop",
    "kill a rank that is replaced",
    "damage the newest checkpoint",
)
STEPS_PER_EPOCH = 3
_CAUSE = {"loader": "a process that loads photos died", "rank": "SIGKILL", "launcher": "launch was killed (SIGKILL)"}
"""What the failure file says of each that was killed."""


@dataclass(frozen=True)
class Event:
    """`kind` happens `seconds` after the first process was started, or after `epochs` more epochs where that is not 0."""

    kind: str
    epochs: int
    seconds: float


def schedule(count: int, seed: int) -> list[Event]:
    """Every kind about equally often. A rank or a loader is only there once training is under way."""
    dice = random.Random(seed)
    return [_event(kind, dice) for kind in invariants.shuffled(KINDS, count, dice)]


def _event(kind: str, dice: random.Random) -> Event:
    starting = kind in ("kill the launcher", "kill the first process", "ask it to stop") and dice.random() < 0.6
    return Event(kind, 0 if starting else dice.choice((1, 2, 3)), round(dice.uniform(0, 8 if starting else 1.5), 2))


class Tree:
    """Runs of one job on one host, disturbed by `events` until those are used up; each run ends as the undisturbed one."""

    def __init__(self, data: Path, folder: Path, seed: int, done: Callable[[str], None]) -> None:
        """`done` is told what each event hit, and how it ended."""
        self._data, self._folder, self._dice, self._done = data, folder, random.Random(seed), done
        undisturbed = Host(data, folder / "undisturbed")
        started = undisturbed.start()
        code = started.end()
        hold(code == 0, "I2", f"exit code {code} of a run nobody disturbed:\n{started.tail()}")
        undisturbed.check()
        self._weights, self._lineage = invariants.weights(undisturbed.model_dir), Lineage()
        self._lineage.add(started.record)

    def disturb(self, events: list[Event]) -> None:
        waiting, number = list(events), 0
        while waiting:
            number += 1
            self._run(Host(self._data, self._folder / f"run-{number:03d}"), waiting)

    def _run(self, host: Host, waiting: list[Event]) -> None:
        """One run to its end; events that happened are taken from `waiting`."""
        lineage, finished, damaged, torn = Lineage(), False, "", set[str]()
        while not finished:
            event = waiting[0] if waiting else None
            replaced = event is not None and event.kind == "kill a rank that is replaced"
            started = host.start({"max_restarts": int(replaced)})
            try:
                hit = self._cause(started, event) if event is not None else ""
                code = started.end()
            finally:
                started.kill()
            lineage.add(started.record)
            told = [line["file"] for line in started.logged(invariants.REJECTED)]
            invariants.rejected(told, damaged, trained=bool(started.logged("epoch")), earlier=torn)
            host.check(damaged)
            damaged = damaged if damaged == invariants.newest(host.checkpoints) else ""
            finished = code == 0 and bool(started.logged("result"))
            self._check_end(host, started, event.kind if event and hit else "", hit, code)
            if event and hit:
                waiting.pop(0)
                if event.kind.startswith("damage"):
                    damaged = damaged or invariants.damage(host.checkpoints, self._dice)
                    torn.add(damaged)
                self._done(f"{event.kind} (hit: {hit}) -> exit code {code}")
        hold(invariants.weights(host.model_dir) == self._weights, "I5", f"run {host.folder.name} ended with other weights")
        lineage.check(self._lineage, STEPS_PER_EPOCH)

    def _cause(self, started: Started, event: Event) -> str:
        """Wait for the event's moment and do it; what was hit, "" where the run had ended before."""
        started.reach(event.epochs, event.seconds)
        if not started.running:
            return ""
        if event.kind == "ask it to stop":
            started.process.send_signal(signal.SIGTERM)
            return "first process, SIGTERM"
        wanted = next((part for part in PARTS if part in event.kind), "first process")
        return started.kill_part(wanted)

    def _check_end(self, host: Host, started: Started, kind: str, hit: str, code: int) -> None:
        """I2."""
        if not kind or code == 0:
            hold(code == 0, "I2", f"exit code {code}, undisturbed:\n{started.tail()}")
            hold(not kind or "SIGTERM" in hit or started.logged("result"), "I2", f"exit code 0 without a result, after: {kind}")
        elif "SIGTERM" in hit and not started.text():
            hold(code in (75, -signal.SIGTERM), "I2", f"exit code {code} after SIGTERM")  # Python itself was not up yet
        elif "SIGTERM" in hit:
            hold(code == 75, "I2", f"exit code {code} after SIGTERM:\n{started.tail()}")
        elif "replaced" in kind and hit == "rank":
            hold(False, "I2", f"exit code {code}: a rank that was killed was not replaced:\n{started.tail()}")
        elif hit == "first process":
            hold(code == -signal.SIGKILL, "I2", f"exit code {code} of a first process that was killed")
        else:
            hold(code == 1, "I2", f"exit code {code} after: {kind}:\n{started.tail()}")
            invariants.failure_told(host.failure, kind, "WorkerFailed", _CAUSE[hit])
