"""Which address and interface lead to the other hosts, and whether the first of them is there yet."""

import ipaddress
import socket
import time
from collections.abc import Callable

import psutil

from containers.core import logs
from containers.train.errors import PeerLost
from containers.train.job import Cluster

log = logs.get(__name__)


def towards_peers(cluster: Cluster) -> tuple[str | None, str | None]:
    """(this host's IPv4 address, its interface's name) for traffic between the hosts; (None, None) for a single host.

    The address must be said: torch would announce the host's own full name, which others often cannot resolve (pytorch 73656).
    """
    if len(cluster.hosts) == 1:
        return None, None
    if cluster.network_interface:
        return _address_of(cluster.network_interface), cluster.network_interface
    if _is_ipv4(cluster.current_host):
        return cluster.current_host, _interface_with(cluster.current_host)
    peer = next(host for host in cluster.hosts if host != cluster.current_host)
    address = _route_to(peer, cluster.rendezvous_port)
    return address, _interface_with(address)


def _is_ipv4(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 4
    except ValueError:
        return False


def _address_of(interface: str) -> str | None:
    for entry in psutil.net_if_addrs().get(interface, []):
        if entry.family == socket.AF_INET:
            return str(entry.address)
    return None


def _route_to(host: str, port: int) -> str:
    """Connecting a datagram socket sends nothing; it only makes the kernel choose the source address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def _interface_with(address: str) -> str | None:
    """Gloo needs one concrete name. All of 127.0.0.0/8 is on the loopback interface."""
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            same = entry.address == address
            if same or (entry.address == "127.0.0.1" and ipaddress.ip_address(address).is_loopback):
                return str(name)
    return None


def leader_answers(cluster: Cluster) -> bool:
    """Whether the first host listens now."""
    try:
        _reach_leader(cluster)
    except OSError:
        return False
    return True


def _reach_leader(cluster: Cluster) -> None:
    socket.create_connection((cluster.rendezvous_host, cluster.rendezvous_port), timeout=5).close()


def wait_for_leader(cluster: Cluster, seconds: float, pause: Callable[[float], None] = time.sleep) -> None:
    """Wait until the first host listens: in Python, because torch's own wait neither hears signals nor says what it waits for.

    Raises PeerLost.
    """
    if cluster.node_rank == 0:
        return
    deadline, said = time.monotonic() + seconds, 0.0
    while True:
        try:
            _reach_leader(cluster)
            return
        except OSError as error:
            now = time.monotonic()
            if now > deadline:
                raise PeerLost(
                    f"host {cluster.rendezvous_host} did not answer on port {cluster.rendezvous_port} within {seconds:.0f} s "
                    f"({error}): is it running, and may hosts of this job reach each other on every port?"
                ) from error
            if now - said > 30:
                said = now
                log.info("waiting for the first host", extra={"peer": cluster.rendezvous_host, "port": cluster.rendezvous_port})
            pause(0.5)
