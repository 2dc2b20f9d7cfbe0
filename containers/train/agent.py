"""Torch's elastic agent with our rules for stopping, restarting and leaving.

It agrees on ranks (c10d rendezvous on the first host of the sorted list), starts and watches this host's workers. What it
lacks stands here (measured on torch 2.10, see docs/decisions): only a lost worker is replaced, since an error of its own would
come again; a stop reaches the workers and not their loaders; and hosts tell each other how they ended (`hosts`), so that none
leaves while another still writes, and each can name the first cause. An agent serves one group of hosts: where the job goes on
without some of them (`membership`), the launcher makes another.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.agent.server.api import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousConnectionError, RendezvousTimeoutError

from containers.core import logs
from containers.core.errors import ConfigError, Error
from containers.train import failure, farewell, gathering
from containers.train.errors import Interrupted, PeerLost
from containers.train.failure import Category, Failure
from containers.train.hosts import LOST_SECONDS, POLL_SECONDS, Board, PeerEnded
from containers.train.job import TrainingJob
from containers.train.membership import AlreadyDone, ElasticBoard, HostsLost, Remaining

log = logs.get(__name__)

STOP_SECONDS = 5.0
"""Where hosts may be lost: how far apart the requests to stop a whole job may reach its hosts."""


class Agent(LocalElasticAgent):
    """One host's agent. `failures` are its own ranks', `cause` the first of any host's; both are final after `run`."""

    def __init__(self, spec: WorkerSpec, job: TrainingJob, log_dir: Path, agreements: Mapping[str, str]) -> None:
        """`agreements` must be equal on every host: what they are about → their content."""
        super().__init__(spec, DefaultLogsSpecs(log_dir=str(log_dir)), "spawn")
        self._agreements = agreements
        self._aborted = False
        self.failures: list[Failure] = []
        self.cause: Failure | None = None
        self.board: Board | None = None
        self._met: torch.distributed.Store | None = None
        self.job, self.cluster = job, job.cluster
        self._gate = threading.Lock()
        self.stopping = False

    def stop(self) -> bool:
        """Ask every worker to stop; False where none is running, and none will be started. Called from the main thread."""
        with self._gate:
            self.stopping = True
            return self._signal(signal.SIGTERM)

    @property
    def cut_off(self) -> bool:
        """The first host's store answers no more: this agent's own calls may wait for TCP, a quarter of an hour."""
        return self.board is not None and self.board.silence > LOST_SECONDS

    @property
    def restarts_left(self) -> int:
        """How many lost workers may still be replaced; a lost host costs none."""
        return int(self._remaining_restarts)

    def told(self) -> Failure | None:
        """What a host that is not fit to train, or gave up, said before it closed the rendezvous."""
        try:
            return farewell.hear(self._rdzv_handler, self.job, self._there())
        except RuntimeError:  # the first host is gone, and its store with it
            return None

    def leave(self, why: Failure | None = None) -> None:
        """Close the rendezvous that is still forming, so that other hosts need not wait for this one, and leave `why` there;
        as far as it can.
        """
        with contextlib.suppress(Exception):
            handler: Any = self._rdzv_handler
            if why is None or len(self.cluster.hosts) == 1:
                handler.set_closed()
                return
            farewell.give_up(handler, self.job, why, self._there())

    def _there(self) -> list[str]:
        return gathering.present(self._rdzv_handler, self._rdzv_handler.get_run_id(), self._met, self.cluster.hosts)

    def why_late(self) -> str:
        """Of a group that did not meet in time."""
        return gathering.why_late(self._rdzv_handler, self._rdzv_handler.get_run_id(), self.cluster)

    def why_apart(self) -> str:
        """Of a group that came apart."""
        return gathering.why_apart(self._rdzv_handler, self._rdzv_handler.get_run_id(), self._met, self.cluster)

    def abandon(self) -> None:
        """Leave this group for another: whoever still looks for it finds it closed."""
        if self.board is not None:
            self.board.close()
        with contextlib.suppress(Exception):
            self._rdzv_handler.shutdown()

    def kill(self) -> None:
        with self._gate:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> bool:
        """To the workers themselves, not to their groups as torch does: their loaders must live until the checkpoint."""
        pids = list(self._pcontext.pids().values()) if self._pcontext is not None else []
        running = False
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                running = True
        return running

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        if len(self.cluster.hosts) > 1:
            gathering.check_hosts(self._rdzv_handler, self._rdzv_handler.get_run_id(), self.cluster)
        super()._rendezvous(worker_group)

    def _assign_worker_ranks(self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec) -> list[Worker]:
        self._met = store
        gathering.takes_part(store, self.cluster.current_host)
        shared_out: list[Worker] = super()._assign_worker_ranks(store, group_rank, group_world_size, spec)
        return shared_out

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if len(self.cluster.hosts) > 1:
            if self.board is not None:
                self.board.close()
            group: Any = worker_group  # torch declares the types of a group that has not formed yet
            least = self.job.config.min_hosts
            self.board = (
                ElasticBoard(group.store, group.group_rank, self.cluster, least)
                if least
                else Board(group.store, group.group_rank, self.cluster)
            )
            self.board.agree(self._agreements)
        with self._gate:
            if self.stopping:
                raise Interrupted("stopped before the workers were started")
            started: dict[int, Any] = super()._start_workers(worker_group)
            return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        try:
            return self._watch(worker_group)
        except HostsLost:
            self._shutdown(signal.SIGKILL)  # they wait for ranks that are gone, and all that counts is committed
            raise

    def _watch(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if self.board is not None and result.state is WorkerState.HEALTHY and (news := self.board.news()) is not None:
            raise PeerEnded(news)
        if result.is_failed():
            self.failures = [self._failure(worker_group, each) for each in result.failures.values()]
            self._aborted = any(each.exitcode == -signal.SIGABRT for each in result.failures.values())
            if not self._may_restart(failure.root_cause(self.failures)):
                self._remaining_restarts = 0
            elif self._remaining_restarts > 0:
                log.warning("a worker was lost; the group restarts from its last checkpoint", extra=self._cause_fields())
        return result

    def _failure(self, worker_group: WorkerGroup, process: Any) -> Failure:
        rank = worker_group.workers[process.local_rank].global_rank
        assert self._pcontext is not None  # noqa: S101 - for the type checker
        error_file = Path(self._pcontext.error_files[process.local_rank])
        return failure.of_process(process.exitcode, error_file, rank=rank, host=self.cluster.current_host)

    def _cause_fields(self) -> dict[str, Any]:
        cause = failure.root_cause(self.failures)
        return {"kind": cause.kind, "reason": cause.message, "failed_rank": cause.rank}

    def _may_restart(self, cause: Failure) -> bool:
        """A lost worker may be replaced. An error of its own would come again, and a stop was meant: also where the disk had no
        room for its checkpoint, since starting again at once makes none.
        """
        elastic = self.board if isinstance(self.board, ElasticBoard) else None
        if elastic is not None and cause.is_stop and not self._stops_too():
            elastic.part()
        if self.stopping or cause.category is Category.OWN or cause.is_stop:
            return False
        lost_peer = cause.category is Category.PEER
        if elastic is not None and self._aborted and not lost_peer:
            elastic.heed_losses()
        if self.board is None or (self._remaining_restarts == 0 and not (elastic and lost_peer)):
            return True
        return self.board.peer_restarts() if lost_peer else self.board.say_restarting(aborted=self._aborted)

    def _stops_too(self) -> bool:
        """Whether this host is asked to stop as well: who ends a job asks one host after the other."""
        deadline = time.monotonic() + STOP_SECONDS
        while not self.stopping and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.stopping

    def _exit_barrier(self) -> None:
        """In place of torch's, which gives up after 300 s and calls that a success."""
        if self.board is not None:
            self.cause = self.board.finish(None)


def train(agent: Agent) -> Failure | Remaining | None:
    """Run the agent to its end; None when every worker of every host succeeded, else the first cause on any host, or who goes
    on where hosts were lost and the job allows it.
    """
    try:
        cause = _run(agent)
        if cause is None:
            return agent.cause
        if agent.board is None:
            agent.leave(cause)
            return cause
        agent.leave()
        return agent.board.finish(cause)
    except HostsLost as lost:
        agent.abandon()
        return lost.remaining
    except AlreadyDone:
        log.info("the first host was done when a peer was lost")
        return agent.board.finish(None) if agent.board is not None else None


def _run(agent: Agent) -> Failure | None:
    """Why this host's workers did not succeed, as far as it knows by itself. Raises HostsLost and AlreadyDone."""
    here = agent.cluster.current_host
    try:
        result: RunResult | None = agent.run()
        if result is None:  # torch's way out for a host that a complete group has no place for
            why = "the hosts' group was complete without this one: give all hosts one list (--hosts), each a name of its own"
            return Failure.of(ConfigError(why), host=here)
        return failure.root_cause(agent.failures) if result.is_failed() else None
    except PeerEnded as ended:
        return ended.failure
    except Error as error:
        return Failure.of(error, host=here)
    except RendezvousClosedError:
        gave_up = PeerLost("another host gave up while the hosts were gathering: see its log")
        return agent.told() or Failure.of(gave_up, host=here)
    except RendezvousTimeoutError:
        return Failure.of(PeerLost(agent.why_late()), host=here)
    except (RendezvousConnectionError, torch.distributed.DistError) as error:
        log.info("the first host's store did not answer", extra={"reason": str(error)})
        return Failure.of(PeerLost(agent.why_apart()), host=here)
