"""What this host asks of torch's elastic agent, worked out from the cluster and the machine."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, registry
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

from containers.core.errors import ConfigError
from containers.train import failure, machine
from containers.train.errors import PeerLost
from containers.train.job import TrainingJob

JOIN_SECONDS = 1800
"""Hosts may start minutes apart, and each checks its photos first."""
REJOIN_SECONDS = 120
"""Hosts that go on without others have only their workers to end first."""
ANSWER_SECONDS = 60
"""What the first host's store, and each host once they have met, has to answer."""
_LEADER_SECONDS = 10
"""The first host keeps the store, so it waits a little longer than those that look there for who did not come."""
_AFTER_ANY_ADDRESS = "~"


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
    join_seconds: int = JOIN_SECONDS

    def handler(self) -> RendezvousHandler:
        """Raises ConfigError where this host should keep the store and its port is taken, PeerLost where another should and it
        is not there.
        """
        leader, _, port = self.endpoint.rpartition(":")
        try:
            return registry.get_rendezvous_handler(self.parameters())
        except RendezvousConnectionError as error:
            if not self.is_host:
                raise PeerLost(gone(leader)) from error
            raise ConfigError(
                f"cannot listen on port {port}: end what uses it, or choose another with --rendezvous-port"
            ) from error

    def parameters(self) -> RendezvousParameters:
        """`is_host` is said, not guessed from names (pytorch 79388); a host that starts late must still find the store.

        Torch 2.10 gives ranks in the order of the hosts' addresses, and uses rank 0's only. The first host is made rank 0's: it
        keeps the store, so the checkpoints, which rank 0 writes, are lost with it or not at all.
        """
        return RendezvousParameters(
            backend="c10d",
            endpoint=self.endpoint,
            run_id=self.run_id,
            min_nodes=self.hosts,
            max_nodes=self.hosts,
            local_addr=self.local_address if self.is_host else _AFTER_ANY_ADDRESS + self.local_address,
            is_host=str(self.is_host).lower(),
            read_timeout=ANSWER_SECONDS,
            join_timeout=self.join_seconds,
            last_call_timeout=1,
        )


def gone(leader: str) -> str:
    """Of the first host, whose store answers no more."""
    return f"host {leader}, which keeps the hosts together, is gone: see its log, and start the job again"


def plan(job: TrainingJob, *, gpus: int, cores: int, address: str | None, interface: str | None, losses: int = 0) -> Plan:
    """`address` and `interface` lead to the other hosts; they are not needed by a single one. `losses`: how often hosts were
    lost before this group, whose name says it: nobody finds an earlier one.

    `processes` is this host's own number: hosts may have unequal numbers of GPUs, and torch's agents tell each other theirs
    when they share out the ranks. Raises ConfigError where GPUs were to be shared, and preflight saw none of them.
    """
    cluster = job.cluster
    machine.check_processes(cluster, gpus)
    several = len(cluster.hosts) > 1
    processes = cluster.processes_per_host or max(1, gpus)
    environment = {
        failure.HOST_VARIABLE: cluster.current_host,
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        # torch 2.10 otherwise gives a restarted group the store of the one before, with the addresses of dead ranks in it
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if several and interface:
        environment |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    rejoin = REJOIN_SECONDS + (_LEADER_SECONDS if cluster.node_rank == 0 else 0)
    return Plan(
        hosts=len(cluster.hosts),
        processes=processes,
        run_id=f"{job.name}.{losses}" if losses else job.name,
        endpoint=f"{cluster.rendezvous_host}:{cluster.rendezvous_port}" if several else "localhost:0",
        is_host=cluster.node_rank == 0,
        local_address=(address or cluster.current_host) if several else "localhost",
        environment=environment,
        join_seconds=rejoin if losses else JOIN_SECONDS,
    )
