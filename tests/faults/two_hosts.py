"""Events for a job on two hosts: two trees of processes on loopback, each with a disk of its own. A host is lost, frozen, asked
to stop, loses its rank, or is not there any more when the job goes on.
"""

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults import invariants
from tests.faults.invariants import hold
from tests.faults.record import Lineage
from tests.faults.trees import DEADLINE, Host, Started
from tests.support.server import free_port

NAMES = ("127.0.0.1", "127.0.0.2")
"""The first leads; all of 127.0.0.0/8 is this machine."""
KINDS = (
    "lose the other host",
    "lose the first host",
    "kill a rank of the other host",
    "kill a rank of the first host",
    "ask the other host to stop",
    "ask the first host to stop",
    "kill a rank that is replaced",
    "freeze the other host",
    "go on with one host",
)
STEPS_PER_EPOCH = 3


@dataclass(frozen=True)
class Event:
    """`kind` happens `seconds` after `epochs` more epochs: before the group has formed, the other host would be waited for."""

    kind: str
    epochs: int
    seconds: float


def schedule(count: int, seed: int) -> list[Event]:
    dice = random.Random(seed)
    return [
        Event(kind, dice.choice((1, 2, 3)), round(dice.uniform(0, 1.5), 2)) for kind in invariants.shuffled(KINDS, count, dice)
    ]


class Pair:
    """Runs of one job on two hosts, disturbed by `events` until those are used up."""

    def __init__(self, data: Path, folder: Path, done: Callable[[str], None]) -> None:
        """`done` is told of each event and how the hosts ended."""
        self._data, self._folder, self._done = data, folder, done
        hosts, self._lineage = self._hosts("undisturbed"), Lineage()
        starts = self._start(hosts, 2)
        codes = [started.end() for started in starts]
        hold(codes == [0, 0], "I2", f"exit codes {codes} of a run nobody disturbed:\n{starts[0].tail()}\n{starts[1].tail()}")
        self._weights = invariants.weights(_writer(hosts, starts).model_dir)
        self._lineage.add(starts[0].record)

    def disturb(self, events: list[Event]) -> None:
        waiting = list(events)
        for number in itertools.count(1):
            if not waiting:
                return
            self._run(self._hosts(f"run-{number:03d}"), waiting)

    def _hosts(self, name: str) -> list[Host]:
        return [Host(self._data, self._folder / name / host, name=f"pair-{name}") for host in NAMES]

    def _start(self, hosts: list[Host], count: int, restarts: int = 0) -> list[Started]:
        """`count` of the hosts, which record into one folder."""
        port, starts = free_port(), []
        for name, host in zip(NAMES[:count], hosts, strict=False):
            flags = {"hosts": ",".join(NAMES[:count]), "current_host": name, "rendezvous_port": port, "max_restarts": restarts}
            environ = {"KENNEL_FAULTS_RECORD": str(starts[0].record)} if starts else {}
            starts.append(host.start(flags, **environ))
        return starts

    def _run(self, hosts: list[Host], waiting: list[Event]) -> None:
        lineage, count, both = Lineage(), 2, True
        while True:
            event = waiting[0] if waiting and count == 2 else None
            starts = self._start(hosts, count, restarts=int(event is not None and "replaced" in event.kind))
            try:
                hit = self._cause(starts, event) if event else ""
                codes = [started.end() for started in starts]
            finally:
                for started in starts:
                    started.kill()
            lineage.add(starts[0].record)
            for host in hosts:
                host.check()
            if hit and event:
                waiting.pop(0)
                self._done(f"{event.kind} (hit: {hit}) -> exit codes {codes}")
            self._check_end(hosts, starts, event.kind if hit and event else "", hit, codes)
            if all(code == 0 for code in codes) and any(started.logged("result") for started in starts):
                break
            if hit and event and event.kind == "go on with one host":
                count, both = 1, False
        lineage.check(self._lineage, STEPS_PER_EPOCH)
        if both:
            same = invariants.weights(_writer(hosts, starts).model_dir) == self._weights
            hold(same, "I5", f"{hosts[0].folder.parent.name} ended with other weights")

    def _cause(self, starts: list[Started], event: Event) -> str:
        """Wait for the event's moment and do it; what was hit, "" where the run had ended before."""
        limit = time.monotonic() + DEADLINE
        while sum(len(started.logged("epoch")) for started in starts) < event.epochs and all(one.running for one in starts):
            for started in starts:
                started.family()
            hold(time.monotonic() < limit, "I1", f"no epoch in {DEADLINE:.0f} s:\n{starts[0].tail()}\n{starts[1].tail()}")
            time.sleep(0.05)
        time.sleep(event.seconds)
        if not all(started.running for started in starts):
            return ""
        chosen = starts[0 if "first" in event.kind or "replaced" in event.kind else 1]
        if event.kind.startswith("kill a rank"):
            return chosen.kill_part("rank")
        if event.kind.startswith("ask"):
            chosen.process.send_signal(signal.SIGTERM)
            return "first process, SIGTERM"
        if event.kind.startswith("freeze"):
            return self._freeze(chosen, starts[0])
        chosen.kill()  # power is lost on one host, in the last case for good
        return "every process of it"

    def _freeze(self, frozen: Started, other: Started) -> str:
        """The host answers nobody, its connections stay open; it thaws once the other has given it up."""
        family = frozen.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            other.end()
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        return "every process of it, SIGSTOP"

    def _check_end(self, hosts: list[Host], starts: list[Started], kind: str, hit: str, codes: list[int]) -> None:
        """I2; a run that was at its end anyway may have ended well."""
        tails = "\n".join(started.tail() for started in starts)
        if not kind or set(codes) == {0}:
            hold(set(codes) == {0}, "I2", f"exit codes {codes}, undisturbed:\n{tails}")
        elif 0 in codes and any(started.logged("result") for started in starts):
            return  # both were done when it happened
        elif kind.startswith(("lose", "go on", "freeze")):
            survivor = int("first" in kind)
            lost = NAMES[1 - survivor]
            hold(codes[survivor] == 75, "I2", f"exit codes {codes} after: {kind}:\n{tails}")
            invariants.failure_told(hosts[survivor].failure, kind, "PeerLost", lost)
        elif "replaced" in kind and hit == "rank":
            hold(False, "I2", f"exit codes {codes}: a rank that was killed was not replaced:\n{tails}")
        elif kind.startswith("ask"):
            asked = 1 - int("first" in kind)
            hold(codes[asked] in (0, 75) and codes[1 - asked] == 75, "I2", f"exit codes {codes} after: {kind}:\n{tails}")
            hold(not hosts[asked].failure.exists(), "I2", f"a failure file on the host that was asked to stop: {kind}")
        elif hit == "rank":
            hold(codes == [1, 1], "I2", f"exit codes {codes} after: {kind}:\n{tails}")
            victim = NAMES[1 - int("first" in kind)]
            for host in hosts:  # both tell the first cause, wherever it was
                invariants.failure_told(host.failure, kind, "WorkerFailed", "SIGKILL", f"host {victim}]")
        else:
            hold(set(codes) <= {1, 75}, "I2", f"exit codes {codes} after: {kind}:\n{tails}")
            for host in hosts:
                invariants.failure_told(host.failure, kind)


def _writer(hosts: list[Host], starts: list[Started]) -> Host:
    """The host whose rank 0 wrote the model."""
    return next(host for host, started in zip(hosts, starts, strict=False) if started.logged("result"))
