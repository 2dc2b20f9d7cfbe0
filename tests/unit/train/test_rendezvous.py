"""The exact plan for one host, two and eleven, and which way the other hosts lie."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import RendezvousHandler

from containers.core.errors import ConfigError
from containers.train import network, rendezvous
from containers.train.config import TrainConfig
from containers.train.errors import PeerLost
from containers.train.job import Cluster, JobPaths, TrainingJob
from containers.train.rendezvous import Plan
from tests.unit.train.jobs import free_port

SHARED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def job_on(cluster: Cluster) -> TrainingJob:
    paths = JobPaths(**dict.fromkeys(("model_dir", "output_dir", "checkpoint_dir", "failure_file", "scratch_dir"), Path("/x")))
    return TrainingJob(name="dogs", config=TrainConfig(), cluster=cluster, paths=paths, channels={})


def test_one_host_with_four_gpus() -> None:
    made = rendezvous.plan(job_on(Cluster()), gpus=4, cores=16, address=None, interface=None)
    assert made == Plan(
        hosts=1, processes=4, run_id="dogs", endpoint="localhost:0", is_host=True, local_address="localhost",
        environment={"KENNEL_HOST": "localhost", "OMP_NUM_THREADS": "4"} | SHARED,
    )  # fmt: skip


@pytest.mark.parametrize(("current", "leads"), [("algo-1", True), ("algo-2", False)])
def test_two_hosts(current: str, leads: bool) -> None:
    cluster = Cluster(hosts=("algo-1", "algo-2"), current_host=current, network_interface="eth0")
    made = rendezvous.plan(job_on(cluster), gpus=0, cores=4, address="10.0.0.7", interface="eth0")
    interfaces = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert made == Plan(
        hosts=2, processes=1, run_id="dogs", endpoint="algo-1:29400", is_host=leads, local_address="10.0.0.7",
        environment={"KENNEL_HOST": current, "OMP_NUM_THREADS": "4"} | SHARED | interfaces,
    )  # fmt: skip
    parameters = made.parameters()
    assert (parameters.backend, parameters.min_nodes, parameters.max_nodes) == ("c10d", 2, 2)
    assert parameters.get_as_bool("is_host") is leads
    assert parameters.get_as_int("join_timeout") == 1800


def test_eleven_hosts_follow_the_order_of_text() -> None:
    hosts = tuple(sorted(f"algo-{n}" for n in range(1, 12)))
    made = rendezvous.plan(job_on(Cluster(hosts=hosts, current_host="algo-10")), gpus=1, cores=4, address=None, interface=None)
    assert (made.hosts, made.endpoint, made.is_host, made.local_address) == (11, "algo-1:29400", False, "algo-10")
    assert "GLOO_SOCKET_IFNAME" not in made.environment


def test_processes_per_host_are_the_users() -> None:
    made = rendezvous.plan(job_on(Cluster(processes_per_host=2)), gpus=8, cores=3, address=None, interface=None)
    assert (made.processes, made.environment["OMP_NUM_THREADS"]) == (2, "1")


@pytest.mark.parametrize(("host", "gpus", "processes"), [("algo-1", 1, 1), ("algo-2", 4, 4), ("algo-3", 0, 1)])
def test_each_host_starts_a_process_per_gpu_of_its_own(host: str, gpus: int, processes: int) -> None:
    """A heterogeneous cluster: the plans differ in what is the host's own, and in nothing else."""
    cluster = Cluster(hosts=("algo-1", "algo-2", "algo-3"), current_host=host)
    made = rendezvous.plan(job_on(cluster), gpus=gpus, cores=8, address="10.0.0.7", interface=None)
    assert (made.processes, made.environment["OMP_NUM_THREADS"]) == (processes, str(8 // processes))
    assert (made.hosts, made.run_id, made.endpoint) == (3, "dogs", "algo-1:29400")


def test_more_processes_than_gpus_are_refused() -> None:
    cluster = Cluster(processes_per_host=4)
    with pytest.raises(ConfigError, match=r"--processes-per-host is 4 and host localhost has 2 GPU\(s\)"):
        rendezvous.plan(job_on(cluster), gpus=2, cores=8, address=None, interface=None)
    assert rendezvous.plan(job_on(cluster), gpus=0, cores=8, address=None, interface=None).processes == 4


def test_rank_0_is_on_the_first_host_whatever_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sorts by address, and the first host's is the larger one here."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    port = free_port()

    def handler(current: str, address: str) -> RendezvousHandler:
        cluster = Cluster(hosts=("127.0.0.1", "127.0.0.2"), current_host=current, rendezvous_port=port)
        return rendezvous.plan(job_on(cluster), gpus=0, cores=1, address=address, interface=None).handler()

    first = handler("127.0.0.1", "99.0.0.1")
    second = handler("127.0.0.2", "10.0.0.1")
    with ThreadPoolExecutor(2) as pool:
        formed = [each.result(60) for each in [pool.submit(one.next_rendezvous) for one in (first, second)]]
    assert [(info.rank, info.bootstrap_store_info.master_addr) for info in formed] == [(0, "99.0.0.1"), (1, "99.0.0.1")]
    for one in (second, first):
        one.shutdown()


def test_a_group_that_lost_hosts_gathers_under_a_name_of_its_own() -> None:
    cluster = Cluster(hosts=("algo-1", "algo-3"), current_host="algo-3")
    made = rendezvous.plan(job_on(cluster), gpus=1, cores=4, address="10.0.0.7", interface="eth0", losses=2)
    assert (made.hosts, made.run_id, made.endpoint, made.is_host) == (2, "dogs.2", "algo-1:29400", False)
    assert made.parameters().get_as_int("join_timeout") == rendezvous.REJOIN_SECONDS


def test_a_taken_port_is_the_users_to_free() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        cluster = Cluster(hosts=("127.0.0.1", "127.0.0.2"), current_host="127.0.0.1", rendezvous_port=taken.getsockname()[1])
        made = rendezvous.plan(job_on(cluster), gpus=0, cores=1, address="127.0.0.1", interface="lo")
        with pytest.raises(ConfigError, match=f"cannot listen on port {cluster.rendezvous_port}"):
            made.handler()


def test_the_way_to_the_peers() -> None:
    assert network.towards_peers(Cluster()) == (None, None)
    by_address = Cluster(hosts=("127.0.0.1", "127.0.0.9"), current_host="127.0.0.9")
    assert network.towards_peers(by_address) == ("127.0.0.9", "lo")
    by_name = Cluster(hosts=("here", "localhost"), current_host="here")
    assert network.towards_peers(by_name) == ("127.0.0.1", "lo")
    told = Cluster(hosts=("a", "b"), current_host="a", network_interface="lo")
    assert network.towards_peers(told) == ("127.0.0.1", "lo")


def test_a_leader_that_never_comes() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    cluster = Cluster(hosts=("127.0.0.1", "127.0.0.2"), current_host="127.0.0.2", rendezvous_port=port)
    with pytest.raises(PeerLost, match=r"127\.0\.0\.1 did not answer on port"):
        network.wait_for_leader(cluster, seconds=0.05, pause=lambda _: None)
    network.wait_for_leader(cluster.model_copy(update={"current_host": "127.0.0.1"}), seconds=0)
