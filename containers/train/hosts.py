"""How the hosts of a job tell each other their ends, through the store that the rendezvous keeps on the first host.

    key             value                                  written
    host/<n>        the host's name                        when the group has formed
    agree/<what>    what the first rank has                when the group has formed
    beat/<n>        a counter                              every few seconds while its agent lives
    end/<n>         "done", "restarting", or a Failure     once, when its workers have ended
    left/<n>        "1"                                    when it has read all ends and needs the store no more

n is the host's rank in the group. The store is new for every round of the rendezvous, so no key outlives a restart.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from torch.distributed import Store

from containers.core import logs
from containers.core.errors import ConfigError
from containers.train import failure
from containers.train.errors import PeerLost
from containers.train.failure import Failure
from containers.train.job import Cluster

log = logs.get(__name__)

BEAT_SECONDS = 2.0
SILENT_SECONDS = 15.0
CAUSE_SECONDS = 45.0
"""How long a host whose workers only lost a peer waits for that peer's own account: torch takes up to 30 s to end workers."""
STAY_SECONDS = 20.0
"""What the others have to end their workers and to read why, before the first host takes the store away."""
LOST_SECONDS = 60.0
"""A host that has not beaten for so long is given up, though its connections may look alive (power cut, partition): a
collective would wait 10 minutes for it."""
ENDED_SECONDS = 20.0
"""What our ranks have to notice that a peer has failed, before they are ended: NCCL may not notice by itself."""
DONE, RESTARTING = "done", "restarting"
POLL_SECONDS = 0.2


def _own_connection(store: Store) -> Store:
    """Calls on one connection wait for each other; torch's stubs do not know `clone`."""
    clone: Store = store.clone()  # type: ignore[attr-defined]
    return clone


class PeerEnded(Exception):
    """Ends the workers of this host because of what another host says, or no longer says."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.headline)
        self.failure = failure


class Board:
    """One host's view of all ends. Used by the agent's thread; a store that is gone reads as a first host that is gone."""

    def __init__(
        self,
        store: Store,
        rank: int,
        cluster: Cluster,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._rank, self._cluster = store, rank, cluster
        self._clock, self._pause = clock, pause
        self._beats: dict[int, tuple[str, float]] = {}
        self._looked = 0.0
        self._answered = clock()
        self._told: dict[int, float] = {}
        store.set(f"host/{rank}", cluster.current_host)
        self._leaving = threading.Event()
        self._beating = threading.Thread(target=self._beat, args=(_own_connection(store),), name="beat", daemon=True)
        self._beating.start()

    @property
    def _peers(self) -> list[int]:
        return [rank for rank in range(len(self._cluster.hosts)) if rank != self._rank]

    def _get(self, key: str) -> str | None:
        if not self._store.check([key]):
            return None
        return bytes(self._store.get(key)).decode()

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compare `facts` with those of the group's first host. Raises ConfigError about the first that differs."""
        for what, content in facts.items():
            digest = hashlib.sha256(content.encode()).hexdigest()
            if self._rank == 0:
                self._store.set(f"agree/{what}", digest)
            elif bytes(self._store.get(f"agree/{what}")).decode() != digest:
                raise ConfigError(f"the {what} of host {self._here} differ from those of host {self._name(0)}: make them equal")

    @property
    def silence(self) -> float:
        """Seconds since the store answered; 0 where it refuses, which calls notice by themselves. For any thread."""
        return 0.0 if self._leaving.is_set() else self._clock() - self._answered

    def close(self) -> None:
        """Beat no more: a new group has formed, with a board of its own."""
        self._leaving.set()

    def _beat(self, store: Store) -> None:
        """Show that this agent lives, also while its other thread waits for workers to end; ends with the store."""
        try:
            while True:
                store.add(f"beat/{self._rank}", 1)
                self._answered = self._clock()
                if self._leaving.wait(BEAT_SECONDS):
                    return
        except RuntimeError:
            self.close()

    def say_restarting(self, *, aborted: bool) -> bool:
        """Tell the others that this host starts its workers again. False where one was `aborted` and a host is lost, for which
        NCCL aborts the ranks of those that are left: they would gather for a host that never comes.
        """
        try:
            if aborted and self.unheard(self._peers):
                return False
            self._store.set(f"end/{self._rank}", RESTARTING)
        except RuntimeError:
            return False
        return True

    def peer_restarts(self) -> bool:
        """Whether a peer says within CAUSE_SECONDS that it restarts; a host that says nothing is lost, and cannot."""
        try:
            ends = self._wait(CAUSE_SECONDS, lambda ends: any(end is not None for end in ends.values()))
        except RuntimeError:
            return False
        return RESTARTING in ends.values()

    def news(self) -> Failure | None:
        """Why this host's workers have no future: a peer that failed or fell silent. None in most turns of the agent's loop."""
        now = self._clock()
        if now - self._looked < BEAT_SECONDS:
            return None
        self._looked = now
        for rank in self._peers:
            end = self._get(f"end/{rank}")
            if end is None and self._given_up(rank, LOST_SECONDS):
                why = f"host {self._name(rank)} has been silent for {LOST_SECONDS:.0f} s; start the job again, it resumes"
                return Failure.of(PeerLost(why), host=self._here)
            told = None if end in (None, DONE, RESTARTING) else Failure.model_validate_json(end)
            if told is None or told.is_stop:  # then our ranks end of themselves, at the same step
                continue
            if now - self._told.setdefault(rank, now) > ENDED_SECONDS:
                return told
        return None

    def finish(self, cause: Failure | None) -> Failure | None:
        """Publish this host's end, wait as long as is needed, and return the first cause of all; None when all are done.

        A host that is done waits for every other, however long they write. A host that failed does not, except for
        CAUSE_SECONDS where it lost a peer, or may have, so that the peer's own account is not masked. The first host keeps the
        store and stays until the others have read it.
        """
        lost: list[str] = []
        known: list[Failure] = []
        heard = False
        try:
            self._store.set(f"end/{self._rank}", DONE if cause is None else cause.model_dump_json())
            heard = self._get(f"end/{self._rank}") is not None  # `set` waits for no answer
            known, lost = self._collect(cause)
            self._store.set(f"left/{self._rank}", "1")
            self.close()
            if self._cluster.node_rank == 0:
                self._stay()
        except RuntimeError as error:  # torch's DistError is one
            log.info("the first host's store is gone", extra={"reason": str(error)})
            if not (heard and cause is not None and cause.is_abort):  # it may have waited long enough for the others, and gone
                lost = lost or [self._cluster.rendezvous_host]
        told = [*known, cause] if cause is not None else known
        first = failure.root_cause(told) if told else None
        if lost and (first is None or (_explains_nothing(first) and not any(name in first.message for name in lost))):
            why = f"host {', '.join(lost)} ended without a word; start the job again, it resumes"
            return Failure.of(PeerLost(f"{why} ({first.message})" if first is not None else why), host=self._here)
        return first

    @property
    def _here(self) -> str:
        return self._cluster.current_host

    def _collect(self, cause: Failure | None) -> tuple[list[Failure], list[str]]:
        """The failures that others tell of, and the names of those that tell nothing."""
        if cause is None:
            ends = self._wait(None, lambda ends: all(ends.values()) or any(end not in (None, DONE) for end in ends.values()))
            known = failures(ends)
            return known, [] if known else self._wordless(ends)
        if not _explains_nothing(cause):
            return [], []
        # a peer that lost a peer itself explains nothing: with three hosts and more, that is what the first to answer says
        ends = self._wait(CAUSE_SECONDS, lambda ends: all(ends.values()) or not all(map(_explains_nothing, failures(ends))))
        known = failures(ends)
        if cause.is_abort or any(
            each.is_abort for each in known
        ):  # that may be the cause: then others end late, and are not lost
            return known, [self._name(rank) for rank, end in ends.items() if end is None and self._silent(rank)]
        return known, self._wordless(ends)

    def _wordless(self, ends: Mapping[int, str | None]) -> list[str]:
        """Those that are silent; where all beat, those that have not said how they ended."""
        open_ended = [rank for rank, end in ends.items() if end in (None, RESTARTING)]
        return [self._name(rank) for rank in [each for each in open_ended if self._silent(each)] or open_ended]

    def _wait(self, seconds: float | None, enough: Callable[[dict[int, str | None]], bool]) -> dict[int, str | None]:
        """Every peer's end, as soon as it is `enough`, or a peer is silent, or after `seconds`."""
        started, patience = self._clock(), LOST_SECONDS if seconds is None else SILENT_SECONDS
        while True:
            ends = {rank: self._get(f"end/{rank}") for rank in self._peers}
            if enough(ends) or (seconds is not None and self._clock() - started > seconds):
                return ends
            if any(end is None and self._given_up(rank, patience) for rank, end in ends.items()):
                return ends
            self._pause(POLL_SECONDS)

    def _given_up(self, rank: int, seconds: float) -> bool:
        """Whether a host that has been silent for so long will not be waited for."""
        return self._silent(rank, seconds)

    def _silent(self, rank: int, seconds: float = SILENT_SECONDS) -> bool:
        beat, now = self._get(f"beat/{rank}") or "", self._clock()
        before, since = self._beats.get(rank, ("", now))
        if beat != before or rank not in self._beats:
            since = now
        self._beats[rank] = (beat, since)
        return now - since > seconds

    def unheard(self, ranks: Iterable[int]) -> set[int]:
        """Those of `ranks` that do not beat while we look, SILENT_SECONDS at most: several may be lost together."""
        before, started = {rank: self._get(f"beat/{rank}") for rank in ranks}, self._clock()
        left = set(before)
        while left and self._clock() - started < SILENT_SECONDS:
            self._pause(POLL_SECONDS)
            left = {rank for rank in left if self._get(f"beat/{rank}") == before[rank]}
        return left

    def _name(self, rank: int) -> str:
        return self._get(f"host/{rank}") or f"of rank {rank}"

    def _stay(self) -> None:
        deadline = self._clock() + STAY_SECONDS
        while self._clock() < deadline and not all(self._get(f"left/{rank}") or self._silent(rank) for rank in self._peers):
            self._pause(POLL_SECONDS)


def failures(ends: Mapping[int, str | None]) -> list[Failure]:
    return [Failure.model_validate_json(end) for end in ends.values() if end not in (None, DONE, RESTARTING)]


def _explains_nothing(cause: Failure) -> bool:
    return cause.is_lost_peer or cause.is_abort
