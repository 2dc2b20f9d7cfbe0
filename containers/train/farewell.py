"""A host that is not fit to train, or has given up, tells those that would wait for it.

    python -m containers.train.farewell JOB_FILE ERROR_FILE CODE [SECONDS]

The supervisor starts it where one of several hosts failed, or was asked to stop, before it gathered: in preflight, or for
settings of no use. ERROR_FILE and CODE say why; SECONDS are what a stop leaves for it. Others are gathering, or will be, at the
store of the first host. They end with the failure told here, and not after half an hour. A host that gives up while it gathers
(`agent`) says so itself, to those that have come.

    key (below the group's name) value        written
    unfit/<host>, unfit/*        a Failure    by the host that is not fit, which then closes the rendezvous
    gave-up/<host>, gave-up/*    a Failure    by a host that had gathered, likewise
    heard/<host>                 "1"          by each host that ends for it, the first one too
    listens/<host>               "1"          by each that hears before it gathers (`listening`)

* is for hosts that do not count the one that says it, as where their lists of hosts differ.
The first host keeps the store, so it stays until all have heard, as long as hosts may reasonably start apart.
"""

import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, Store
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousHandler

from containers.core import logs
from containers.core.errors import Error
from containers.train import failure, gathering, network, own_process, rendezvous
from containers.train.errors import PeerLost
from containers.train.failure import Failure
from containers.train.job import Cluster, TrainingJob

log = logs.get("containers.train.farewell")

STAY_SECONDS = 300.0
"""Hosts that start later than that, or check their photos longer, wait for `rendezvous.JOIN_SECONDS`."""
GAVE_UP_SECONDS = 30.0
"""What hosts that have come need to hear of one that gave up: they look every second."""
_POLL_SECONDS = 0.2
_ANYONE = "*"


def say(handler: RendezvousHandler, job: TrainingJob, why: Failure, seconds: float = STAY_SECONDS) -> None:
    """Leave `why` for every host that gathers, or will, and let none of them wait. On the first host: until all have heard."""
    _close(handler, "unfit", job.cluster, why)
    _heard(_store(handler), job.cluster, job.cluster.hosts, seconds)


def give_up(handler: RendezvousHandler, job: TrainingJob, why: Failure, there: Collection[str]) -> None:
    """The same of a host that has gathered. On the first host: until those that are `there`, or listen, have heard."""
    _close(handler, "gave-up", job.cluster, why)
    store = _store(handler)
    listening = [host for host in job.cluster.hosts if store.check([f"listens/{host}"])]
    _heard(store, job.cluster, {*there, *listening}, GAVE_UP_SECONDS)


def hear(handler: RendezvousHandler, job: TrainingJob, there: Collection[str] = ()) -> Failure | None:
    """Why the rendezvous was closed while the hosts that are `there` gathered: the first host's failure that was said; None
    where none was.
    """
    store = _store(handler)
    for how, hosts, seconds in (("unfit", job.cluster.hosts, STAY_SECONDS), ("gave-up", there, GAVE_UP_SECONDS)):
        if why := _told(store, (*job.cluster.hosts, _ANYONE), how):
            _heard(store, job.cluster, hosts, seconds)
            return why
    return None


def listen(job: TrainingJob, gathers: Callable[[], object], report: Callable[[Failure], object]) -> bool:
    """Of a host that does not gather yet: wait for what is said at the first host's store, or for its end, and `report` that.

    `gathers` is called when the first host is seen to wait for this one: a store may also be that of a start before, which ends
    while this one begins. False where no store can be reached, or one ends that was not known for this start's.
    """
    here, leader, known = job.cluster.current_host, job.cluster.rendezvous_host, False
    try:
        handler = rendezvous.plan(job, gpus=0, cores=1, address=None, interface=None).handler()
        store = _store(handler)
        store.set(f"listens/{here}", "1")
        others = [host for host in job.cluster.hosts if host != here]  # what is said of this host is of a start before
        while not (told := _told(store, others, "unfit") or _told(store, others, "gave-up")):
            late = gathering.missing(handler, handler.get_run_id(), (leader, here))
            if not known and late == [here]:
                known = True
                gathers()
            time.sleep(_POLL_SECONDS)
        report(told)
        store.set(f"heard/{here}", "1")
    except (Error, RendezvousError, RuntimeError):  # torch's DistError is a RuntimeError
        if known:
            report(Failure.of(PeerLost(rendezvous.gone(leader)), host=leader))
        return known
    return True


def _told(store: Store, hosts: Collection[str], how: str) -> Failure | None:
    told = [f"{how}/{host}" for host in hosts if store.check([f"{how}/{host}"])]
    return failure.root_cause(Failure.model_validate_json(bytes(store.get(key)).decode()) for key in told) if told else None


def _close(handler: RendezvousHandler, how: str, cluster: Cluster, why: Failure) -> None:
    for name in (cluster.current_host, _ANYONE):
        _store(handler).set(f"{how}/{name}", why.model_dump_json())
    gathering: Any = handler  # torch types neither
    gathering.set_closed()


def _store(handler: RendezvousHandler) -> Store:
    gathering: Any = handler  # torch 2.10 has no public way to the store that a rendezvous is held at
    return PrefixStore(f"kennel.{handler.get_run_id()}", gathering._store)


def _heard(
    store: Store,
    cluster: Cluster,
    hosts: Collection[str],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    store.set(f"heard/{cluster.current_host}", "1")
    if cluster.node_rank != 0:
        return
    keys = [f"heard/{host}" for host in hosts]
    deadline, said = clock() + seconds, False
    while not store.check(keys):
        if clock() > deadline:
            log.warning("not every host has heard; those that come later wait for the first host in vain")
            return
        if not said:
            log.info("telling the other hosts as they come", extra={"seconds": seconds})
            said = True
        pause(_POLL_SECONDS)


def main(arguments: list[str]) -> int:
    job = TrainingJob.read(Path(arguments[0]))
    host = job.cluster.current_host
    logs.configure(host=host)
    own_process.end_with_parent(signal.SIGKILL)
    why = failure.of_process(int(arguments[2]), Path(arguments[1]), name="preflight", host=host)
    seconds = float(arguments[3]) if len(arguments) > 3 else STAY_SECONDS
    try:
        address, interface = network.towards_peers(job.cluster)
        network.wait_for_leader(job.cluster, seconds)
        plan = rendezvous.plan(job, gpus=0, cores=1, address=address, interface=interface)
        say(plan.handler(), job, why, seconds)
    except (Error, RendezvousError, RuntimeError, OSError) as error:
        log.warning("the other hosts could not be told; they wait in vain", extra={"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
