"""Jobs with real workers on several hosts, each a tree of processes on a loopback address with a disk of its own."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults import invariants
from tests.faults.record import Lineage
from tests.faults.trees import Host, Started
from tests.support.training import make_index
from tests.unit.train import jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""The first leads; all of 127.0.0.0/8 is this machine."""
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 training photos: three steps of at most 8."""
    root = tmp_path_factory.mktemp("photos")
    make_index(root)
    return root


def start(hosts: Mapping[str, Host], own: Mapping[str, Mapping[str, object]] = {}, **flags: object) -> dict[str, Started]:
    """The same job on all of them; `own` are one host's flags. All ranks record into the first host's folder."""
    port, starts = jobs.free_port(), {}
    for name, host in hosts.items():
        common = {"hosts": ",".join(hosts), "current_host": name, "rendezvous_port": port, **flags}
        environ = {"KENNEL_FAULTS_RECORD": str(next(iter(starts.values())).record)} if starts else {}
        starts[name] = host.start({**common, **own.get(name, {})}, **environ)
    return starts


def ended(starts: Mapping[str, Started]) -> list[int]:
    try:
        return [started.end() for started in starts.values()]
    finally:
        for started in starts.values():
            started.kill()


def texts(starts: Mapping[str, Started]) -> str:
    return "\n\n".join(f"{name}:\n{started.text()[-6000:]}" for name, started in starts.items())


def lineage(*records: Path) -> Lineage:
    told = Lineage()
    for record in records:
        told.add(record)
    return told


def test_hosts_with_unequal_numbers_of_processes_are_one_group(tmp_path: Path, data: Path) -> None:
    """One process here, two there: three ranks that train as three on one host do, bit for bit, every photo once per epoch."""
    alone = Host(data, tmp_path / "alone")
    single = {"localhost": alone.start({"processes_per_host": 3})}
    assert ended(single) == [0], texts(single)
    hosts = {name: Host(data, tmp_path / name, name="unequal") for name in NAMES[:2]}
    starts = start(hosts, {name: {"processes_per_host": count} for name, count in zip(NAMES, (1, 2), strict=False)})
    assert ended(starts) == [0, 0], texts(starts)
    (result,) = starts[NAMES[0]].logged("result")
    assert result["world_size"] == 3
    assert {row["world_size"] for row in starts[NAMES[0]].logged("epoch")} == {3}
    record = starts[NAMES[0]].record
    assert {path.name.split("-")[1] for path in record.glob("rank-*.jsonl")} == {"0", "1", "2"}
    lineage(record).check(lineage(single["localhost"].record), STEPS_PER_EPOCH)
    assert invariants.weights(hosts[NAMES[0]].model_dir) == invariants.weights(alone.model_dir)
