"""Start one worker per GPU on this host, together with every other host, and answer for how they ended; where the job may lose
hosts, start them again together with those that are left.

The elastic agent runs in a thread: this process then hears signals while torch waits in native code, and its own times decide
how long workers may take to stop, not the 30 s that torch 2.10 fixes.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.elastic.agent.server.api import WorkerSpec

from containers.core import host as machine
from containers.core import logs
from containers.train import failure, gathering, listening, network, own_process, rendezvous
from containers.train.agent import Agent, train
from containers.train.errors import RESUMABLE, Interrupted, PeerLost
from containers.train.failure import Category, Failure
from containers.train.hosts import LOST_SECONDS
from containers.train.job import TrainingJob
from containers.train.membership import Remaining
from containers.train.preflight import REPORT_FILE

log = logs.get("containers.train.launch")

KINDS_OF_DEVICE = "kinds of device (GPUs on every host, or with KENNEL_DEVICE=cpu on none)"
"""Numbers of GPUs may differ. But a rank on a CPU has no part in NCCL's collectives, and those on GPUs would wait for it."""
_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 3.0
_CUT_OFF_SECONDS = 10.0
"""What workers have from SIGTERM to SIGKILL where the first host is silent: a checkpoint that is being written gets done. A new
one is not to be had, since all ranks make it together."""
_KILLED_SECONDS = 10.0
"""What the agent has to notice that its workers were killed."""


class Launcher:
    """The process around the agent: signals in the main thread, the agent in another."""

    def __init__(self, job: TrainingJob, worker: str, stop_seconds: float) -> None:
        self._job, self._worker, self._stop_seconds = job, worker, stop_seconds
        self._stop = threading.Event()
        self._done = threading.Event()
        self._cause: Failure | None = None
        self._agent: Agent | None = None
        self._before: list[Agent] = []
        """Of groups that lost hosts. The first host's store lives as long as the handler that made it."""
        self._chosen: set[str] = set()

    def request_stop(self, *_: object) -> None:
        self._stop.set()

    def run(self) -> int:
        thread = threading.Thread(target=self._train, name="elastic-agent", daemon=True)
        thread.start()
        while not self._done.wait(_POLL_SECONDS):
            if self._stop.is_set():
                self._end_workers()
                break
            if self._agent is not None and self._agent.cut_off:
                self._end_cut_off(self._agent)
                break
        return self._exit_code()

    def _train(self) -> None:
        try:
            self._cause = self._train_with_all_that_are_left()
        except Exception as error:  # noqa: BLE001 - what a thread raises would be lost
            self._cause = failure.report(error)
            log.error("the launcher failed", extra={"trace": self._cause.trace})  # noqa: TRY400 - redacted
        finally:
            self._done.set()

    def _train_with_all_that_are_left(self) -> Failure | None:
        job, restarts = self._job, self._job.config.max_restarts
        while True:
            self._agent = self._make_agent(job, restarts)
            ended = train(self._agent)
            if not isinstance(ended, Remaining):
                return ended
            log.warning(
                "a host is gone; the others go on from the last checkpoint",
                extra={"lost": ended.lost, "remaining": ended.hosts},
            )
            if self._stop.is_set():
                stopped = "stopped while the hosts that are left were to gather; the last checkpoint stands"
                return Failure.of(Interrupted(stopped), host=job.cluster.current_host)
            self._before.append(self._agent)
            restarts = self._agent.restarts_left
            job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"hosts": ended.hosts})})

    def _make_agent(self, job: TrainingJob, restarts: int) -> Agent:
        """For the group of `job`'s hosts: all of them, or those that are left."""
        cluster = job.cluster
        gpus = torch.cuda.device_count() if job.device != "cpu" else 0
        address, interface = network.towards_peers(cluster)
        chosen = rendezvous.plan(
            job, gpus=gpus, cores=machine.cores(), address=address, interface=interface, losses=len(self._before)
        )
        self._set_environment(chosen.environment)
        if len(cluster.hosts) > 1 and not self._before:
            network.wait_for_leader(cluster, listening.patience(job, rendezvous.JOIN_SECONDS))
        handler = chosen.handler()
        gathering.came(handler, chosen.run_id, cluster.current_host)
        log.info("starting workers", extra={"hosts": chosen.hosts, "processes": chosen.processes, "endpoint": chosen.endpoint})
        spec = WorkerSpec(
            role="worker",
            local_world_size=chosen.processes,
            entrypoint=sys.executable,
            args=("-u", "-m", self._worker, str(self._job.paths.job_file)),
            rdzv_handler=handler,
            max_restarts=restarts,
            monitor_interval=_POLL_SECONDS,
            local_addr=chosen.local_address,
        )
        return Agent(spec, job, job.paths.scratch_dir / "ranks", self._agreements(gpus))

    def _set_environment(self, wanted: Mapping[str, str]) -> None:
        """What the user set stays; what an earlier group was given goes (a single host has no way to others)."""
        for name in self._chosen:
            del os.environ[name]
        self._chosen = {name for name in wanted if name not in os.environ}
        os.environ.update({name: wanted[name] for name in self._chosen})

    def _agreements(self, gpus: int) -> dict[str, str]:
        if len(self._job.cluster.hosts) == 1:
            return {}
        report = json.loads((self._job.paths.output_dir / REPORT_FILE).read_text(encoding="utf-8"))
        return {
            "photos": report["fingerprint"],
            "hyperparameters": self._job.config.model_dump_json(),
            KINDS_OF_DEVICE: "cuda" if gpus else "cpu",
        }

    def _end_workers(self) -> None:
        """Give the workers the time they need, whatever grace torch would give them, and no more than that."""
        asked = time.monotonic()
        if self._agent is None and len(self._job.cluster.hosts) > 1:
            _end_by_the_signal()
        if self._agent is None or not self._agent.stop():
            if not self._done.wait(2.0):
                waiting = Interrupted("stopped while waiting for the other hosts; nothing was lost")
                if self._agent is not None:
                    why = Failure.of(waiting, host=self._job.cluster.current_host)
                    leaving = threading.Thread(target=self._agent.leave, args=(why,), daemon=True)
                    leaving.start()
                    leaving.join(_LEAVE_SECONDS)
                _end_at_once(waiting)
            return
        if not self._done.wait(self._stop_seconds):
            log.warning(
                "workers did not stop in time; the last periodic checkpoint stands", extra={"seconds": self._stop_seconds}
            )
            self._agent.kill()
            if not self._done.wait(_KILLED_SECONDS):
                killed = f"the workers were killed after {self._stop_seconds:.0f} s"
                waits = "the launcher still waits for something: its log says more"
                _end_at_once(Interrupted(f"stopped; {killed} and {waits}; the last periodic checkpoint stands"))
        log.info("workers ended", extra={"seconds": round(time.monotonic() - asked, 1)})

    def _end_cut_off(self, agent: Agent) -> None:
        """Of a host that lost the first one without hearing of it: power cut, partition."""
        leader = self._job.cluster.rendezvous_host
        log.error("the first host does not answer; ending the workers", extra={"peer": leader, "seconds": LOST_SECONDS})
        agent.stop()
        if self._done.wait(_CUT_OFF_SECONDS):
            return
        agent.kill()
        why = f"host {leader}, which keeps the hosts together, has been silent for {LOST_SECONDS:.0f} s"
        _end_at_once(PeerLost(f"{why}; start the job again, it resumes"))

    def _exit_code(self) -> int:
        cause = self._cause
        if cause is None:
            return 0
        if self._stop.is_set() and self._committed(cause):
            log.info("stopped on request; the checkpoint is committed")
            return 0
        if self._stop.is_set() and cause.category is not Category.OWN:
            cause = cause.model_copy(update={"kind": Interrupted.__name__, "exit_code": RESUMABLE})
        failure.write(cause, Path(os.environ[failure.ERROR_FILE_VARIABLE]))
        return cause.exit_code

    def _committed(self, cause: Failure) -> bool:
        """Every rank of this host ended as ranks do that have committed (or had nothing left to do)."""
        ours = self._agent.failures if self._agent is not None else []
        return bool(ours) and cause.kind == Interrupted.__name__ and all(each.kind == Interrupted.__name__ for each in ours)


def _end_by_the_signal() -> None:
    """Of a host that does not gather yet: the first host may still check its photos. The supervisor tells the others."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_at_once(why: Interrupted | PeerLost) -> NoReturn:
    """Without the agent's thread, which may sit in native code for minutes."""
    failure.report(why)
    own_process.leave(RESUMABLE)


def main(arguments: list[str]) -> int:
    """`launch JOB_FILE WORKER_MODULE STOP_SECONDS`, started by the supervisor."""
    job = TrainingJob.read(Path(arguments[0]))
    launcher = Launcher(job, arguments[1], float(arguments[2]))
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, launcher.request_stop)
    logs.configure(host=job.cluster.current_host)
    # its warning is about the thread the agent runs in, its errors are reported here, with their cause
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    return own_process.guarded(launcher.run)


if __name__ == "__main__":
    own_process.leave(main(sys.argv[1:]))
