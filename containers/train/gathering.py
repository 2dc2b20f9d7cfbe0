"""Who has come to form a group of hosts and who takes part in it: what can be said of a group that does not form.

    key                                     value   written
    came/<host>, below the group's name     "1"     by each host before it gathers
    hosts, below the group's name           JSON    by the first host before it gathers, whom it counts
    part/<host>, in the group's own store   "1"     by each host that has met the others, before their ranks are shared out

Any host may be the one that is missing. The first host keeps the store, so only a store that is gone speaks of that one.
"""

import json
import time
from collections.abc import Collection
from typing import Any

from torch.distributed import PrefixStore, Store
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

from containers.core.errors import ConfigError
from containers.train import rendezvous
from containers.train.job import Cluster

_POLL_SECONDS = 0.2


def came(handler: Any, name: str, host: str) -> None:
    """Say that `host` gathers for the group `name` at the rendezvous's store."""
    _gathering(handler, name).set(f"came/{host}", "1")


def check_hosts(handler: Any, name: str, cluster: Cluster) -> None:
    """Compare the list of hosts with the first host's, before the group forms: torch 2.10 takes the group for complete, or not,
    by the list of whoever comes last.

    Raises ConfigError where they differ (somebody would wait for one that never comes), and of torch's RendezvousClosedError
    where a host said meanwhile that it will not come, RendezvousTimeoutError where the first one does not gather.
    """
    here, leader, store = cluster.current_host, cluster.rendezvous_host, _gathering(handler, name)
    if cluster.node_rank == 0:
        store.set("hosts", json.dumps(cluster.hosts))
        return
    deadline = time.monotonic() + handler.settings.timeout.join.total_seconds()
    while not store.check(["hosts"]):  # the first host's store may be that of its farewell
        if handler.is_closed():
            raise RendezvousClosedError
        if time.monotonic() > deadline:
            raise RendezvousTimeoutError
        time.sleep(_POLL_SECONDS)
    if json.loads(bytes(store.get("hosts"))) != list(cluster.hosts):
        raise ConfigError(f"the lists of hosts (--hosts) of host {here} differ from those of host {leader}: make them equal")


def missing(handler: Any, name: str, expected: Collection[str]) -> list[str]:
    """Who never came."""
    store = _gathering(handler, name)
    return [host for host in expected if not store.check([f"came/{host}"])]


def present(handler: Any, name: str, met: Store | None, expected: Collection[str]) -> list[str]:
    """Who came, or once the hosts have `met` in a store of their group, who takes part."""
    if met is not None:
        return [host for host in expected if met.check([f"part/{host}"])]
    late = missing(handler, name, expected)
    return [host for host in expected if host not in late]


def takes_part(store: Store, host: str) -> None:
    """Say in the store of a group that has met that `host` is still there."""
    store.set(f"part/{host}", "1")


def why_late(handler: Any, name: str, cluster: Cluster) -> str:
    """Of a group that did not meet in time."""
    try:
        late = missing(handler, name, cluster.hosts)
    except RuntimeError:
        return rendezvous.gone(cluster.rendezvous_host)
    if not late:
        return "a host that had come was lost again while the others gathered: see the hosts' logs, and start the job again"
    return f"host {', '.join(late)} did not come while the others gathered: see its log, and start the job again"


def why_apart(handler: Any, name: str, met: Store | None, cluster: Cluster) -> str:
    """Of a group that came apart while it formed: a call at the first host's store failed, or was not answered in time."""
    if met is None:
        return why_late(handler, name, cluster)
    try:
        there = present(handler, name, met, cluster.hosts)
    except RuntimeError:
        return rendezvous.gone(cluster.rendezvous_host)
    if lost := [host for host in cluster.hosts if host not in there]:
        return f"host {', '.join(lost)} came and was lost again while the group formed: see its log, and start the job again"
    return "the hosts' group came apart though all of them were there: see the hosts' logs, and start the job again"


def _gathering(handler: Any, name: str) -> Store:
    return PrefixStore(f"kennel.group.{name}", handler._store)  # torch 2.10 has no public way to it
