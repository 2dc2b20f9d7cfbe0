"""Events for the ranks of a job, one or two of them: a rank, a loader or all are killed, one is asked to stop, what was saved
is damaged, and the next start has another number of ranks.

The ranks are the workers themselves, forked from a process that has imported torch already: an event costs seconds, not the
start of an interpreter. Launchers and first processes are the business of `training` and `two_hosts`.
"""

import functools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from containers.train import failure, session, worker
from containers.train.job import TrainingJob
from tests.faults import invariants, record
from tests.faults.invariants import hold
from tests.faults.record import Lineage
from tests.support import training as support
from tests.support.training import Workers

assert session  # imported before any rank is forked
KINDS = (
    "kill a rank",
    "kill a loader",
    "ask one rank to stop",
    "kill everything at once",
    "damage the newest checkpoint",
    "go on with another number of ranks",
)
STEPS_PER_EPOCH = 3
_EVERY_STEP = 1e-9
CONFIG = {"augmentation": "none", "head_epochs": 2, "epochs": 6}
"""Without augmentation a photo is the same tensor in every epoch, so that meeting it twice shows."""


@dataclass(frozen=True)
class Event:
    """`kind` happens `seconds` after `epochs` more epochs, to a process that `dice` (0 to 1) chooses."""

    kind: str
    epochs: int
    seconds: float
    dice: float


@dataclass(frozen=True)
class Hit:
    """`what` is "rank", "loader", "all" or "asked"; `rank` the one it happened to, where it was one."""

    what: str
    rank: int | None


def schedule(count: int, seed: int) -> list[Event]:
    dice = random.Random(seed)
    return [
        Event(kind, dice.choice((0, 1, 2, 3)), round(dice.uniform(0, 1.2), 2), dice.random())
        for kind in invariants.shuffled(KINDS, count, dice)
    ]


class Ranks:
    """Runs of one job, disturbed by `events` until those are used up."""

    def __init__(self, folder: Path, seed: int, done: Callable[[str], None]) -> None:
        """`done` is told of each event and how the ranks ended."""
        torch.set_num_threads(1)
        self._folder, self._dice, self._done = folder, random.Random(seed), done
        self._index = support.make_index(folder / "photos")
        self._weights, self._lineages = {}, {}
        for world in (1, 2):
            job, lineage = self._job(folder / f"undisturbed-{world}"), Lineage()
            workers = self._start(job, world, lineage_folder := folder / f"record-{world}")
            codes = self._end(workers)
            hold(set(codes) == {0}, "I2", f"exit codes {codes} of a run nobody disturbed:\n{workers.text()[-2000:]}")
            lineage.add(lineage_folder)
            self._weights[world], self._lineages[world] = invariants.weights(job.paths.model_dir), lineage
        self._lineages[2].check(self._lineages[1], STEPS_PER_EPOCH)

    def disturb(self, events: list[Event]) -> None:
        waiting, number = list(events), 0
        while waiting:
            number += 1
            self._run(self._folder / f"run-{number:03d}", waiting)

    def _job(self, folder: Path) -> TrainingJob:
        seconds = self._dice.choice((_EVERY_STEP, 300))
        return support.make_job(
            folder, self._index, **CONFIG, checkpoint_every_seconds=seconds, num_workers=self._dice.choice((0, 1))
        )

    def _run(self, folder: Path, waiting: list[Event]) -> None:
        world = self._dice.choice((1, 2, 2))
        worlds, lineage, damaged, torn, starts, finished = {world}, Lineage(), "", set[str](), 0, False
        while not finished:
            starts += 1
            event, job = waiting[0] if waiting else None, self._job(folder)
            recorded = folder / f"start-{starts:03d}"
            workers = self._start(job, world, recorded)
            try:
                hit = self._cause(workers, event) if event else None
                codes = self._end(workers)
            finally:
                workers.kill()
            lineage.add(recorded)
            told = [line["file"] for line in workers.lines() if line["event"] == invariants.REJECTED]
            trained = any(line["event"] == "epoch" for line in workers.lines())
            invariants.rejected(told, damaged, trained=trained, earlier=torn)
            damaged = damaged if damaged == invariants.newest(job.paths.checkpoint_dir) else ""
            invariants.model_whole(job.paths.model_dir)
            if not damaged:
                invariants.checkpoint_whole(job.paths.checkpoint_dir)
            finished = set(codes) == {0}
            self._check_end(workers, hit, codes, recorded / "failure")
            if event and hit:
                waiting.pop(0)
                if event.kind.startswith("damage"):
                    damaged = damaged or invariants.damage(job.paths.checkpoint_dir, self._dice)
                    torn.add(damaged)
                self._done(f"{event.kind} ({world} of them) -> exit codes {codes}")
                if event.kind.startswith("go on") and not finished:
                    world = 3 - world
                    worlds.add(world)
        lineage.check(self._lineages[1], STEPS_PER_EPOCH)
        if len(worlds) == 1:
            same = invariants.weights(job.paths.model_dir) == self._weights[world]
            hold(same, "I5", f"run {folder.name} on {world} ranks ended with other weights")

    def _start(self, job: TrainingJob, world: int, recorded: Path) -> Workers:
        return Workers(job, world, functools.partial(_recording, recorded))

    def _cause(self, workers: Workers, event: Event) -> Hit | None:
        """Wait for the event's moment and do it; None where the run had ended before."""
        limit = time.monotonic() + support.DEADLINE
        alive = lambda: all(process.is_alive() for process in workers.processes)  # noqa: E731
        while alive() and sum(line["event"] == "epoch" for line in workers.lines()) < event.epochs:
            hold(time.monotonic() < limit, "I1", f"no epoch in {support.DEADLINE:.0f} s:\n{workers.text()[-2000:]}")
            time.sleep(0.02)
        time.sleep(event.seconds)
        if not alive():
            return None
        rank = int(event.dice * len(workers.processes))
        chosen = workers.processes[rank].pid
        if event.kind == "ask one rank to stop":
            os.kill(chosen, signal.SIGTERM)
            return Hit("asked", None)
        if event.kind == "kill a loader" and (loaders := psutil.Process(chosen).children()):
            invariants.kill(loaders[:1])
            return Hit("loader", rank)
        if event.kind in ("kill a rank", "kill a loader"):
            os.kill(chosen, signal.SIGKILL)
            return Hit("rank", rank)
        for process in workers.processes:
            os.killpg(process.pid, signal.SIGKILL)
        return Hit("all", None)

    def _end(self, workers: Workers) -> list[int]:
        """I1. Exit codes by rank."""
        limit, family = time.monotonic() + support.DEADLINE, set()
        while any(process.is_alive() for process in workers.processes):
            family |= set(psutil.Process().children(recursive=True))
            if time.monotonic() > limit:
                workers.kill()
                texts = "\n".join(workers.text(rank)[-1500:] for rank in range(len(workers.processes)))
                hold(False, "I1", f"did not end:\n{texts}")
            time.sleep(0.02)
        for process in workers.processes:
            process.join()
        invariants.ended(family)
        return [process.exitcode for process in workers.processes]

    def _check_end(self, workers: Workers, hit: Hit | None, codes: list[int], failure_file: Path) -> None:
        """I2; a run that was at its end anyway may have ended well."""
        hold(codes_fit(hit, codes), "I2", f"exit codes {codes} after: {hit or 'nothing'}:\n{workers.text()[-2000:]}")
        if set(codes) == {0}:
            return
        ends = list(enumerate(zip(codes, workers.errors, strict=True)))
        silent = [rank for rank, (code, told) in ends if code > 0 and not told.exists()]
        hold(not silent, "I2", f"ranks {silent} ended with {codes} and did not say why")
        cause = failure.root_cause(failure.of_process(code, told, rank=rank) for rank, (code, told) in ends if code)
        failure.write_failure_file(cause, failure_file)
        kind = "Interrupted" if hit and hit.what == "asked" else "WorkerFailed"
        where = f"[rank {hit.rank}]" if hit and hit.rank is not None else ""
        invariants.failure_told(failure_file, str(hit), kind, where)


def codes_fit(hit: Hit | None, codes: list[int]) -> bool:
    """Each rank's exit code is the one that is documented for what happened to it."""
    if hit is None or set(codes) == {0}:
        return set(codes) == {0}
    if hit.rank is None:
        return set(codes) <= {0, 75 if hit.what == "asked" else -signal.SIGKILL}
    others = [code for rank, code in enumerate(codes) if rank != hit.rank]
    return codes[hit.rank] == {"loader": 1, "rank": -signal.SIGKILL}[hit.what] and set(others) <= {0, 75}


def _recording(folder: Path, job_file: Path) -> int:
    """A rank's main, in its own process."""
    record.install(folder)
    return worker.main(job_file)
