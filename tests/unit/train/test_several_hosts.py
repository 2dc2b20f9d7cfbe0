"""Jobs with real workers on several hosts, each a tree of processes on a loopback address with a disk of its own."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from tests.faults import invariants
from tests.faults.record import Lineage
from tests.faults.trees import DEADLINE, Host, Started
from tests.support.training import make_index
from tests.unit.train import jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""The first leads; all of 127.0.0.0/8 is this machine."""
STEPS_PER_EPOCH = 3
GONE = "a host is gone; the others go on from the last checkpoint"


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


@pytest.fixture
def three(tmp_path: Path, data: Path) -> Callable[..., dict[str, Started]]:
    """three(min_hosts=2): three hosts that train twelve epochs."""

    def started(**flags: object) -> dict[str, Started]:
        hosts = {name: Host(data, tmp_path / name, name="three") for name in NAMES}
        return start(hosts, **{"epochs": 10, **flags})

    return started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Lineage:
    alone = {"localhost": Host(data, tmp_path_factory.mktemp("undisturbed") / "alone").start({"epochs": 10})}
    assert ended(alone) == [0], texts(alone)
    return lineage(alone["localhost"].record)


def reach(starts: Mapping[str, Started], epochs: int, event: str = "epoch") -> None:
    for each in starts.values():
        each.family()
    first = starts[NAMES[0]]
    deadline = time.monotonic() + DEADLINE
    while len(first.logged(event)) < epochs:
        assert first.running, texts(starts)
        assert time.monotonic() < deadline, texts(starts)
        for each in starts.values():
            each.family()
        time.sleep(0.05)


def without(record: Path) -> tuple[Path, Path]:
    """A record of ranks that were started twice, as two: before the loss, and after it."""
    after = record.with_name("after")
    after.mkdir()
    for rank in {path.name.split("-")[1] for path in record.glob("rank-*.jsonl")}:
        for second in sorted(record.glob(f"rank-{rank}-*.jsonl"))[1:]:
            second.rename(after / second.name)
    return record, after


def steps(record: Path) -> set[int]:
    return {json.loads(line)["step"] for path in record.glob("rank-*.jsonl") for line in path.read_text().splitlines()}


def checkpoints_whole(starts: Mapping[str, Started]) -> None:
    for each in starts.values():
        invariants.checkpoint_whole(each.record.parents[1] / "model.run/checkpoints")
        invariants.model_whole(each.record.parents[1] / "model")


def test_a_lost_host_costs_a_job_that_may_lose_it_no_photo(
    three: Callable[..., dict[str, Started]], undisturbed: Lineage
) -> None:
    """Every process of it is killed in the middle of an epoch; two are enough, and end as if they had always been two."""
    starts = three(min_hosts=2)
    reach(starts, 4)
    time.sleep(0.2)
    starts[NAMES[1]].kill()
    codes = ended(starts)
    assert (codes[0], codes[2]) == (0, 0), texts(starts)
    first = starts[NAMES[0]]
    (result,) = first.logged("result")
    assert result["world_size"] == 2
    for name in (NAMES[0], NAMES[2]):
        (told,) = starts[name].logged(GONE)
        assert (told["lost"], told["remaining"]) == ([NAMES[1]], [NAMES[0], NAMES[2]])
        assert not (starts[name].record.parents[1] / "model.run/output/failure").exists()
    assert [row["epoch"] for row in first.logged("epoch")][-1] == 12
    lineage(*without(first.record)).check(undisturbed, STEPS_PER_EPOCH)
    checkpoints_whole(starts)


def test_a_host_that_is_asked_to_stop_leaves_a_checkpoint_with_which_the_others_go_on_at_once(
    three: Callable[..., dict[str, Started]], undisturbed: Lineage
) -> None:
    """As before a spot interruption. Nothing is learned twice, and only the first host's stop is the job's."""
    starts = three(min_hosts=2)
    reach(starts, 4)
    starts[NAMES[2]].process.send_signal(signal.SIGTERM)
    assert ended(starts) == [0, 0, 0], texts(starts)
    first = starts[NAMES[0]]
    (told,) = first.logged(GONE)
    assert told["lost"] == [NAMES[2]]
    (result,) = first.logged("result")
    assert result["world_size"] == 2
    before, after = without(first.record)
    assert max(steps(before)) + 1 == min(steps(after))
    lineage(before, after).check(undisturbed, STEPS_PER_EPOCH)
    checkpoints_whole(starts)


def test_the_first_hosts_stop_is_the_jobs(three: Callable[..., dict[str, Started]]) -> None:
    starts = three(min_hosts=1, epochs=100_000)
    reach(starts, 3)
    starts[NAMES[0]].process.send_signal(signal.SIGTERM)
    assert ended(starts) == [0, 75, 75], texts(starts)
    assert not any(each.logged(GONE) for each in starts.values())
    checkpoints_whole(starts)


def test_two_hosts_lost_at_once_leave_one_that_goes_on_alone_and_still_stops(three: Callable[..., dict[str, Started]]) -> None:
    starts = three(min_hosts=1, epochs=100_000)
    reach(starts, 4)
    for name in NAMES[1:]:
        starts[name].kill()
    reach(starts, 1, "resumed")
    first, before = starts[NAMES[0]], len(starts[NAMES[0]].logged("epoch"))
    reach(starts, before + 2)
    assert first.logged("epoch")[-1]["world_size"] == 1
    first.process.send_signal(signal.SIGTERM)
    assert ended(starts)[0] == 0, texts(starts)
    assert "the checkpoint is committed" in first.text()
    checkpoints_whole(starts)


@pytest.mark.parametrize(("min_hosts", "why"), [(0, "ended without a word"), (3, "2 of 3 hosts are left and min_hosts is 3")])
def test_where_too_few_are_left_the_job_ends_with_the_lost_hosts_name(
    three: Callable[..., dict[str, Started]], min_hosts: int, why: str
) -> None:
    starts = three(min_hosts=min_hosts, epochs=100_000)
    reach(starts, 3)
    starts[NAMES[2]].kill()
    codes = ended(starts)
    assert codes[:2] == [75, 75], texts(starts)
    for name in NAMES[:2]:
        told = invariants.failure_told(
            starts[name].record.parents[1] / "model.run/output/failure", "a lost host", "PeerLost", f"host {NAMES[2]}", why
        )
        assert NAMES[0] not in told.partition("[")[0]
    checkpoints_whole(starts)


def test_the_first_host_cannot_be_lost(three: Callable[..., dict[str, Started]]) -> None:
    starts = three(min_hosts=1, epochs=100_000)
    reach(starts, 3)
    starts[NAMES[0]].kill()
    assert ended(starts)[1:] == [75, 75], texts(starts)
    for name in NAMES[1:]:
        failure = starts[name].record.parents[1] / "model.run/output/failure"
        invariants.failure_told(failure, "a lost first host", "PeerLost", NAMES[0])


def test_a_frozen_host_is_left_behind_and_ends_itself_when_it_thaws(three: Callable[..., dict[str, Started]]) -> None:
    """Its connections stay open, as behind a partition. A worker killed afterwards is replaced: no restart was used up."""
    starts = three(min_hosts=2, epochs=100_000, max_restarts=1)
    reach(starts, 3)
    first, frozen = starts[NAMES[0]], starts[NAMES[1]]
    family = frozen.family()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        reach(starts, 1, "resumed")
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    assert frozen.end() == 75, texts(starts)
    failure = frozen.record.parents[1] / "model.run/output/failure"
    invariants.failure_told(failure, "a frozen host", "PeerLost", NAMES[0])
    reach(starts, len(first.logged("epoch")) + 1)
    starts[NAMES[2]].kill_part("rank")
    reach(starts, 2, "resumed")
    reach(starts, len(first.logged("epoch")) + 2)
    assert first.logged("epoch")[-1]["world_size"] == 2
    first.process.send_signal(signal.SIGTERM)
    assert ended(starts) == [0, 75, 75], texts(starts)
    checkpoints_whole(starts)
