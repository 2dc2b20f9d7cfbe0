"""What a soak saw, and the judgement: which failures a kill explains, who died that nobody killed, whether anything grew."""

import statistics
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.support.memory import anonymous_mb, resident_mb

MODEL, FRONT = "kennel-model", "kennel-front"
SPARED = (f"{MODEL}-0", f"{FRONT}-0")
"""Never killed, so that a leak in one of them is seen. Weighed together: the C library keeps what a front freed by steps of
several MB, each of which is more than 3 % of a front."""
MEMORY_GROWTH = 0.03
ANSWERED = 0.8
"""Of the good photos, kills or not: a server that refuses everything loses nothing either."""
_SLACK_SECONDS = 0.5

# How a request fails that was inside a process of this kind when it was killed: a model's photos are answered with 500, a
# front's connections break.
_DIES_LIKE = {MODEL: {"500"}, FRONT: {"ConnectionError", "ChunkedEncodingError"}}


@dataclass(frozen=True)
class Kill:
    """At some moment from `at` to `done`: whoever kills may have to wait for a CPU."""

    at: float
    kind: str
    pid: int
    done: float = 0.0


@dataclass
class Tally:
    """`unexpected` holds failures that no kill explains. `watched` maps the pids that were seen alive to their names.

    `unexpected_errors` are those in the server's log.
    """

    damaged_wanted: int = 0
    damaged_sent: int = 0
    statuses: Counter = field(default_factory=Counter)
    mutants: Counter = field(default_factory=Counter)
    failures: list[tuple[float, float, str]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    excused: int = 0
    latencies: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    spared_megabytes: dict[str, list[float]] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)
    watched: dict[int, str] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    unexpected_errors: int = 0

    def count(self, sent: float, ended: float, status: str, damaged: bool) -> None:
        """One request's outcome. A good photo is answered or refused; a damaged one may also be the caller's mistake."""
        self.statuses[status] += 1
        self.latencies.append(ended - sent)
        if damaged:
            self.mutants[status] += 1
        if status not in ({"200", "503", "400", "413", "415"} if damaged else {"200", "503"}):
            self.failures.append((sent, ended, status))

    def weigh(self, pid: int) -> None:
        """Resident memory in MB, of the server and of its spared processes, and the descriptors of all that live throughout."""
        self.megabytes.append(resident_mb(pid))
        descriptors = 0
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                name = process.name()
                descriptors += process.num_fds() if process.pid == pid or name == "kennel-http" else 0
                if name in SPARED:
                    self.spared_megabytes.setdefault(name, []).append(anonymous_mb(process.pid))
        self.descriptors.append(descriptors)

    def judge(self, alive: set[int]) -> None:
        """A failure is excused when a process that fails like this was killed between its sending and its end.

        A process that is gone without having been killed is dead.
        """
        for sent, ended, status in self.failures:
            near = [
                kill
                for kill in self.kills
                if sent - _SLACK_SECONDS <= max(kill.at, kill.done) and kill.at <= ended + _SLACK_SECONDS
            ]
            if any(status in _DIES_LIKE[kill.kind] for kill in near):
                self.excused += 1
            else:
                self.unexpected.append(status)
        killed = {kill.pid for kill in self.kills}
        self.dead = [name for pid, name in self.watched.items() if pid not in alive | killed]

    def report(self) -> dict:
        ranked = sorted(self.latencies)
        middle, last = _thirds(self.megabytes)
        return {
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "damaged_photos_wanted": self.damaged_wanted,
            "damaged_photos": sum(self.mutants.values()),
            "damaged_statuses": dict(self.mutants),
            "kills": dict(Counter(kill.kind for kill in self.kills)),
            "inside_a_killed_process": self.excused,
            "lost": len(self.unexpected),
            "examples": self.unexpected[:5],
            "dead_processes": self.dead,
            "unexpected_errors_in_the_log": self.unexpected_errors,
            "p50_ms": round(ranked[len(ranked) // 2] * 1000, 1),
            "p99_ms": round(ranked[len(ranked) * 99 // 100] * 1000, 1),
            "memory_samples": len(self.megabytes),
            "memory_mb_middle_third": round(middle, 1),
            "memory_mb_last_third": round(last, 1),
            "memory_growth": round(last / middle - 1, 4),
            "memory_mb_of_processes_never_killed": {
                name: [round(third, 1) for third in _thirds(weights)] for name, weights in sorted(self.spared_megabytes.items())
            },
            "descriptors_middle_and_last_third": _thirds(self.descriptors),
        }


def faults(report: dict) -> list[str]:
    """What in a report must not be; empty when the server kept its promises."""
    middle, last = report["descriptors_middle_and_last_third"]
    spared = report["memory_mb_of_processes_never_killed"]
    before, after = (round(sum(thirds[at] for thirds in spared.values()), 1) for at in (0, 1))
    good = report["requests"] - report["damaged_photos"]
    answered = report["statuses"].get("200", 0) - report["damaged_statuses"].get("200", 0)
    wrong = {
        f"{report['lost']} requests were lost: {report['examples']}": report["lost"],
        f"only {answered} of {good} good photos were answered": answered < ANSWERED * good,
        f"{report['unexpected_errors_in_the_log']} unexpected errors in the log": report["unexpected_errors_in_the_log"],
        f"processes died that nobody killed: {report['dead_processes']}": report["dead_processes"],
        f"only {report['damaged_photos']} damaged photos were sent": report["damaged_photos"] < report["damaged_photos_wanted"],
        f"memory grew by {report['memory_growth']:.1%}": report["memory_growth"] > MEMORY_GROWTH,
        f"memory of the processes never killed grew from {before} to {after} MB": after > before * (1 + MEMORY_GROWTH),
        f"open descriptors grew from {middle} to {last}": last > middle * (1 + MEMORY_GROWTH),
    }
    return [words for words, holds in wrong.items() if holds]


def _thirds(values: list) -> tuple[float, float]:
    """Medians of the middle and the last third: a killed process is missing for moments, which is no growth afterwards."""
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
