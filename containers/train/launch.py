"""Start one worker per GPU on this host, together with every other host, through torch's elastic agent.

The agent agrees on ranks (c10d rendezvous on the first host of the sorted list), watches the workers and restarts the group
where that is allowed. Around it stands what it lacks (measured on torch 2.10, docs/decisions): stopping in our own time, a
restart only where it can help, and hosts that tell each other how they ended, so that none of them leaves while another
still writes, and each can name the first cause. The agent runs in a thread: this process then hears signals while torch
waits in native code.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousParameters,
    registry,
)

from containers.core import host as machine
from containers.core import logs
from containers.train import failure, network
from containers.train.errors import RESUMABLE, Interrupted, PeerLost
from containers.train.failure import Category, Failure
from containers.train.hosts import Board
from containers.train.job import Cluster, TrainingJob

log = logs.get("containers.train.launch")

STOP_SECONDS = 90.0
"""From the stop request until workers are killed; the supervisor's limit and SageMaker's (120) lie behind it."""
_MONITOR_SECONDS = 0.1
_JOIN_SECONDS = 1800
"""Hosts may start minutes apart, and each checks its photos first."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What this host asks of the elastic agent: a pure function of the cluster and the machine."""

    hosts: int
    processes: int
    run_id: str
    endpoint: str
    is_host: bool
    local_address: str
    environment: Mapping[str, str]

    def rendezvous(self) -> RendezvousParameters:
        """`is_host` is said, not guessed from names (pytorch 79388); a host that starts late must still find the store."""
        return RendezvousParameters(
            backend="c10d",
            endpoint=self.endpoint,
            run_id=self.run_id,
            min_nodes=self.hosts,
            max_nodes=self.hosts,
            local_addr=self.local_address,
            is_host=str(self.is_host).lower(),
            read_timeout=60,
            join_timeout=_JOIN_SECONDS,
            last_call_timeout=1,
        )


def plan(job: TrainingJob, *, gpus: int, cores: int, address: str | None, interface: str | None) -> Plan:
    """`address` and `interface` lead to the other hosts; they are not needed by a single one."""
    cluster = job.cluster
    several = len(cluster.hosts) > 1
    processes = cluster.processes_per_host or max(1, gpus)
    environment = {
        "KENNEL_HOST": cluster.current_host,
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        # torch 2.10 otherwise gives a restarted group the store of the one before, with the addresses of dead ranks in it
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if several and interface:
        environment |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return Plan(
        hosts=len(cluster.hosts),
        processes=processes,
        run_id=job.name,
        endpoint=f"{cluster.rendezvous_host}:{cluster.rendezvous_port}" if several else "localhost:0",
        is_host=cluster.node_rank == 0,
        local_address=(address or cluster.current_host) if several else "localhost",
        environment=environment,
    )


class Agent(LocalElasticAgent):
    """Torch's agent with our rules for stopping, restarting and leaving; see the module's docstring."""

    def __init__(self, spec: WorkerSpec, cluster: Cluster, log_dir: Path) -> None:
        super().__init__(spec, DefaultLogsSpecs(log_dir=str(log_dir)), "spawn")
        self.failures: list[Failure] = []
        self.board: Board | None = None
        self._cluster = cluster
        self._gate = threading.Lock()
        self.stopping = False

    def stop(self) -> bool:
        """Ask every worker to stop; False where none has been started, and none will be. Called from the main thread."""
        with self._gate:
            self.stopping = True
            return self._signal(signal.SIGTERM)

    def kill(self) -> None:
        with self._gate:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> bool:
        """To the workers themselves, not to their groups as torch does: their loaders must live until the checkpoint."""
        pids = list(self._pcontext.pids().values()) if self._pcontext is not None else []
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return bool(pids)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if len(self._cluster.hosts) > 1:
            group: Any = worker_group  # torch declares the types of a group that has not formed yet
            self.board = Board(group.store, group.group_rank, self._cluster)
        with self._gate:
            if self.stopping:
                raise Interrupted("stopped before the workers were started")
            started: dict[int, Any] = super()._start_workers(worker_group)
            return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            self.failures = [self._failure(worker_group, each) for each in result.failures.values()]
            if not self._may_restart(failure.root_cause(self.failures)):
                self._remaining_restarts = 0
            elif self._remaining_restarts > 0:
                log.warning("a worker was lost; the group restarts from its last checkpoint", extra=self._cause_fields())
        return result

    def _failure(self, worker_group: WorkerGroup, process: Any) -> Failure:
        rank = worker_group.workers[process.local_rank].global_rank
        assert self._pcontext is not None  # noqa: S101 - for the type checker
        error_file = Path(self._pcontext.error_files[process.local_rank])
        host = self._cluster.current_host
        return failure.of_rank(process.exitcode, error_file, rank=rank, host=host, moment=time.time())

    def _cause_fields(self) -> dict[str, Any]:
        cause = failure.root_cause(self.failures)
        return {"kind": cause.kind, "reason": cause.message, "failed_rank": cause.rank}

    def _may_restart(self, cause: Failure) -> bool:
        """A lost worker may be replaced. An error of its own would come again, and a stop was meant."""
        if self.stopping or cause.category is Category.OWN or cause.kind == Interrupted.__name__:
            return False
        if self.board is None or self._remaining_restarts == 0:
            return True
        if cause.category is not Category.PEER:
            self.board.say_restarting()
            return True
        return self.board.peer_restarts()

    def _exit_barrier(self) -> None:
        """In place of torch's, which gives up after 300 s and calls that a success."""
        if self.board is not None:
            self.board.finish(None)


def train(agent: Agent) -> Failure | None:
    """Run the agent to its end; None when every worker of every host succeeded, else the first cause on any host."""
    host = agent._cluster.current_host
    try:
        result = agent.run()
    except (Interrupted, PeerLost) as error:
        cause = Failure.of(error, host=host)
    except (RendezvousClosedError, RendezvousConnectionError, torch.distributed.DistError) as error:
        log.info("lost the first host's store", extra={"reason": str(error)})
        leader = agent._cluster.rendezvous_host
        cause = Failure.of(PeerLost(f"host {leader}, which keeps the hosts together, is gone: start the job again"), host=host)
    else:
        if not result.is_failed():
            return None
        cause = failure.root_cause(agent.failures)
    return agent.board.finish(cause) if agent.board is not None else cause


class Launcher:
    """The process around the agent: signals in the main thread, the agent in another."""

    def __init__(self, job: TrainingJob, worker: str, stop_seconds: float = STOP_SECONDS) -> None:
        self._job, self._worker, self._stop_seconds = job, worker, stop_seconds
        self._stop = threading.Event()
        self._done = threading.Event()
        self._cause: Failure | None = None
        self._agent: Agent | None = None

    def request_stop(self, *_: object) -> None:
        self._stop.set()

    def run(self) -> int:
        thread = threading.Thread(target=self._train, name="elastic-agent", daemon=True)
        thread.start()
        while not self._done.wait(_MONITOR_SECONDS):
            if self._stop.is_set():
                self._end_workers()
                break
        return self._exit_code()

    def _train(self) -> None:
        try:
            self._agent = self._make_agent()
            self._cause = train(self._agent)
        except Exception as error:
            log.exception("the launcher failed")
            self._cause = Failure.of(error, host=self._job.cluster.current_host)
        finally:
            self._done.set()

    def _make_agent(self) -> Agent:
        cluster = self._job.cluster
        gpus = torch.cuda.device_count() if self._job.device != "cpu" else 0
        address, interface = network.towards_peers(cluster)
        chosen = plan(self._job, gpus=gpus, cores=machine.cores(), address=address, interface=interface)
        os.environ.update({name: value for name, value in chosen.environment.items() if name not in os.environ})
        if len(cluster.hosts) > 1:
            network.wait_for_leader(cluster, _JOIN_SECONDS)
        log.info("starting workers", extra={"hosts": chosen.hosts, "processes": chosen.processes, "endpoint": chosen.endpoint})
        spec = WorkerSpec(
            role="worker",
            local_world_size=chosen.processes,
            entrypoint=sys.executable,
            args=("-u", "-m", self._worker, str(self._job.paths.job_file)),
            rdzv_handler=registry.get_rendezvous_handler(chosen.rendezvous()),
            max_restarts=self._job.config.max_restarts,
            monitor_interval=_MONITOR_SECONDS,
            local_addr=chosen.local_address,
        )
        return Agent(spec, cluster, self._job.paths.scratch_dir / "ranks")

    def _end_workers(self) -> None:
        """Give the workers the time they need, whatever grace torch would give them, and no more than that."""
        asked = time.monotonic()
        if self._agent is None or not self._agent.stop():
            if not self._done.wait(2.0):
                log.info("stopped while waiting for the other hosts")
                sys.stdout.flush()
                os._exit(RESUMABLE)  # the agent's thread may sit in native code for minutes
            return
        if not self._done.wait(self._stop_seconds):
            log.warning(
                "workers did not stop in time; the last periodic checkpoint stands", extra={"seconds": self._stop_seconds}
            )
            self._agent.kill()
            self._done.wait(10.0)
        log.info("workers ended", extra={"seconds": round(time.monotonic() - asked, 1)})

    def _exit_code(self) -> int:
        cause = self._cause
        if cause is None:
            return 0
        if self._stop.is_set() and self._committed(cause):
            log.info("stopped on request; the checkpoint is committed")
            return 0
        failure.write(cause, Path(os.environ[failure.ERROR_FILE_VARIABLE]))
        return cause.exit_code

    def _committed(self, cause: Failure) -> bool:
        """Every rank of this host ended as ranks do that have committed (or had nothing left to do)."""
        ours = self._agent.failures if self._agent is not None else []
        return bool(ours) and cause.kind == Interrupted.__name__ and all(each.kind == Interrupted.__name__ for each in ours)


def main(arguments: list[str]) -> int:
    """`launch JOB_FILE WORKER_MODULE [STOP_SECONDS]`, started by the supervisor."""
    job, worker = TrainingJob.read(Path(arguments[0])), arguments[1]
    launcher = Launcher(job, worker, *(float(seconds) for seconds in arguments[2:]))
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, launcher.request_stop)
    logs.configure(host=job.cluster.current_host)
    return failure.guarded(launcher.run)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
