"""Which hosts go on when others are lost, where the job allows it (`min_hosts`).

The first host decides: it keeps the store and the checkpoints (it has rank 0), and without it nobody can go on. So there is one
decision, and a host that is cut off from the first one never makes its own: it ends itself, as ever.

    key             value                              written
    next            a `Remaining`, as JSON             once, by the first host, in the store of the group that broke

A host that was given up and comes back reads `next`, or finds the rendezvous closed, and ends. The new group gathers under
another name, has a store of its own, and goes on from the last checkpoint.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch.distributed import Store

from containers.core import logs
from containers.train import hosts
from containers.train.errors import PeerLost
from containers.train.failure import Failure
from containers.train.hosts import Board, PeerEnded
from containers.train.job import Cluster

log = logs.get(__name__)

DECISION_SECONDS = 120.0
"""What a host that lost a peer waits for the first one: it may take LOST_SECONDS to notice, and SILENT_SECONDS to count."""
ABORTED_SECONDS = 30.0
"""The same where its own worker was aborted, which a lost peer may have caused, or not."""
_NEXT = "next"


class Remaining(BaseModel):
    """Who goes on, and who was lost. Names of hosts, sorted."""

    model_config = ConfigDict(frozen=True)

    hosts: tuple[str, ...]
    lost: tuple[str, ...]


class HostsLost(Exception):
    """Ends this host's workers, since the group forms again without the hosts that were lost."""

    def __init__(self, remaining: Remaining) -> None:
        super().__init__(f"lost {', '.join(remaining.lost)}")
        self.remaining = remaining


class AlreadyDone(Exception):
    """Rank 0 has written everything, so what this host's workers lost afterwards does not matter."""


class ElasticBoard(Board):
    """A board whose first host may decide to go on without others, as long as `min_hosts` are left.

    Its waiting methods raise HostsLost and PeerEnded beside what they return.
    """

    def __init__(self, store: Store, rank: int, cluster: Cluster, min_hosts: int, **seams: Callable[..., Any]) -> None:
        super().__init__(store, rank, cluster, **seams)
        self._min_hosts = min_hosts
        self._excused: set[int] = set()

    @property
    def _decides(self) -> bool:
        return self._cluster.node_rank == 0

    @property
    def _peers(self) -> list[int]:
        return [rank for rank in super()._peers if rank not in self._excused]

    def _given_up(self, rank: int, seconds: float) -> bool:
        """Only the first host gives up others; they give up none but the first."""
        if self._decides:
            return self._silent(rank, seconds)
        return rank == 0 and self._silent(rank, max(seconds, hosts.LOST_SECONDS))

    def news(self) -> Failure | None:
        self._heed()
        news = super().news()
        if news is not None and self._decides and self._silent_ranks(hosts.LOST_SECONDS):
            self._decide()
        return news

    def peer_restarts(self) -> bool:
        return self._hear(DECISION_SECONDS)

    def heed_losses(self) -> None:
        """Of a host whose worker ended as a lost peer may have made it end."""
        self._hear(ABORTED_SECONDS)

    def part(self) -> None:
        """After a stop that all ranks made for a host that was asked to, as this one was not: go on without it.

        Returns where nobody does.
        """
        try:
            if not self._decides:
                self._wait(DECISION_SECONDS, self._first_has_ended)
                return
            ends = self._wait(hosts.CAUSE_SECONDS, lambda ends: any(each.is_stop for each in hosts.failures(ends)))
            if any(each.is_stop for each in hosts.failures(ends)):
                self._decide(or_end=False)
        except RuntimeError:
            return

    def _hear(self, seconds: float) -> bool:
        """Whether a peer restarts, if no host was lost."""
        try:
            if self._decides:
                ends = self._wait(hosts.CAUSE_SECONDS, lambda ends: any(end is not None for end in ends.values()))
                if self._silent_ranks(hosts.SILENT_SECONDS):
                    self._decide()
            else:
                ends = self._wait(seconds, self._decided)
                self._heed_first(ends.get(0))
        except RuntimeError:
            return False
        return hosts.RESTARTING in ends.values()

    def _decided(self, ends: Mapping[int, str | None]) -> bool:
        self._heed()
        return any(end is not None for end in ends.values())

    def _first_has_ended(self, ends: Mapping[int, str | None]) -> bool:
        self._heed()
        return ends.get(0) is not None

    def _heed(self) -> None:
        """Go by what the first host has decided, if it has."""
        text = self._get(_NEXT)
        if text is None or self._decides:
            return
        remaining = Remaining.model_validate_json(text)
        if self._here in remaining.hosts:
            raise HostsLost(remaining)
        gave_up = f"host {self._cluster.rendezvous_host} heard nothing of this host and the others go on without it"
        raise PeerEnded(Failure.of(PeerLost(gave_up), host=self._here))

    def _heed_first(self, end: str | None) -> None:
        if end == hosts.DONE:
            raise AlreadyDone
        if end is not None and end != hosts.RESTARTING:
            raise PeerEnded(Failure.model_validate_json(end))

    def _silent_ranks(self, seconds: float) -> list[int]:
        return [rank for rank in self._peers if self._get(f"end/{rank}") is None and self._silent(rank, seconds)]

    def _decide(self, *, or_end: bool = True) -> None:
        """Count who is left. Raises HostsLost where they are enough, PeerEnded where they are too few (with `or_end`).

        Returns where a peer told of its own failure: that is the job's end, whoever else was lost.
        """
        living = self._living()
        if self._own_failures():
            return
        names = {rank: self._name(rank) for rank in living}
        lost = tuple(host for host in self._cluster.hosts if host not in names.values())
        if len(names) < self._min_hosts:
            if not or_end:
                return
            few = f"{len(names)} of {len(self._cluster.hosts)} hosts are left and min_hosts is {self._min_hosts}"
            why = f"host {', '.join(lost)} is lost, {few}; start the job again, it resumes"
            raise PeerEnded(Failure.of(PeerLost(why), host=self._here))
        remaining = Remaining(hosts=tuple(sorted(names.values())), lost=lost)
        self._store.set(_NEXT, remaining.model_dump_json())
        raise HostsLost(remaining)

    def _own_failures(self) -> list[Failure]:
        ends = {rank: self._get(f"end/{rank}") for rank in self._peers}
        return [each for each in hosts.failures(ends) if not (each.is_lost_peer or each.is_stop)]

    def _living(self) -> list[int]:
        """The hosts, by rank, that beat while we look and have not failed."""
        here = [rank for rank in self._peers if self._get(f"end/{rank}") in (None, hosts.DONE) and not self._silent(rank)]
        unheard = self.unheard(here)
        return [self._rank, *(r for r in here if r not in unheard and self._get(f"end/{r}") in (None, hosts.DONE))]

    def finish(self, cause: Failure | None) -> Failure | None:
        try:
            if cause is not None and self._get(_NEXT) is not None:  # the others are no longer here
                self.close()
                return cause
        except RuntimeError as error:
            log.info("the first host's store is gone", extra={"reason": str(error)})
        return super().finish(cause)

    def _collect(self, cause: Failure | None) -> tuple[list[Failure], list[str]]:
        """As a board does; but once the first host is done rank 0 has written everything: who is lost later is not missed."""
        if cause is not None:
            told = [] if self._decides or not cause.is_lost_peer else hosts.failures({0: self._get("end/0")})
            return (told, []) if told else super()._collect(cause)  # the first host has named who was lost, and will not stay
        if not self._decides:
            ends = self._wait(None, self._first_has_left)
            known = hosts.failures(ends)
            return known, [] if known or self._get("left/0") else [self._cluster.rendezvous_host]
        while True:
            known, wordless = super()._collect(None)
            late = self._silent_ranks(hosts.LOST_SECONDS)
            if known or not late or len(self._peers) + 1 - len(late) < self._min_hosts:
                return known, wordless
            self._excused |= set(late)
            log.warning("lost a host after the last step; nothing is missing", extra={"lost": [self._name(r) for r in late]})

    def _first_has_left(self, ends: Mapping[int, str | None]) -> bool:
        self._heed()
        return bool(hosts.failures(ends)) or self._get("left/0") is not None
