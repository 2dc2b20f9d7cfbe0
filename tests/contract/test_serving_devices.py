"""A host with two GPUs, as a server finds it: nobody tells it how many there are, and each computes batches of its own.

The GPUs are device files and an engine that follows a script (tests/support/scripted_server.py); all else is real.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.artifacts import photo
from tests.support.scripted import Scripted, scripted, with_gpus
from tests.support.server import UNHURRIED, until
from tests.support.slow_model import gauge, in_flight, stopped, waiting

JPEG = photo(1, format="JPEG")
FIRST, SECOND = "cuda:0", "cuda:1"
ENDED = "model process ended: replacing it"


def is_whole(engine: Scripted) -> bool:
    return gauge(engine.server, "kennel_model_processes_ready") == 2


@pytest.fixture(scope="module")
def host(model_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("host")
    with scripted(model_dir, folder, with_gpus(folder, 2), model_processes=0, **UNHURRIED) as running:
        yield running


@pytest.fixture
def engine(host: Scripted):
    """With both GPUs in order; so again afterwards."""
    until(lambda: is_whole(host), "both serve")
    yield host
    host.play()
    until(lambda: is_whole(host), "both serve again")


def process(engine: Scripted, device: str) -> psutil.Process:
    (found,) = engine.server.processes(f"kennel-model-{device[-1]}")
    return found


def computing(engine: Scripted, pool: ThreadPoolExecutor) -> dict[str, Future]:
    """A request inside each GPU: the second is taken by the one that is idle."""
    engine.play(seconds=600)
    before, sent = len(engine.batches), []
    for count in (1, 2):
        sent.append(pool.submit(engine.server.invoke, JPEG))
        until(lambda count=count: len(engine.batches) == before + count, "a GPU has it")
    inside = dict(zip([device for device, _ in engine.batches[before:]], sent, strict=True))
    assert set(inside) == {FIRST, SECOND}
    return inside


def loads(engine: Scripted) -> list[str]:
    return [event["device"] for event in engine.server.events("model loaded")]


def test_every_gpu_of_the_host_has_a_model_process_though_nobody_asked_for_it(engine: Scripted):
    assert engine.server.events("listening")[0]["models"] == [FIRST, SECOND]
    assert sorted(loads(engine)) == [FIRST, SECOND]


def test_they_compute_at_the_same_time_and_who_is_free_first_takes_all_that_waits(engine: Scripted, pool):
    inside = computing(engine, pool)
    before = len(engine.batches)
    behind = waiting(engine.server, pool, [JPEG] * 20, before=2)
    engine.play()
    assert {future.result().status_code for future in [*inside.values(), *behind]} == {200}
    assert engine.sizes[before:] == [20]  # more than the 8 of a CPU


def test_a_killed_one_loses_what_was_inside_while_the_other_answers_and_is_replaced_where_it_was(engine: Scripted, pool):
    inside, before = computing(engine, pool), loads(engine)
    engine.play(seconds=600, may_load=False, on=FIRST)
    assert inside[SECOND].result().status_code == 200
    victim, taken = process(engine, FIRST), len(engine.batches)
    victim.kill()
    lost = inside[FIRST].result()
    assert (lost.status_code, lost.json()["error"]["kind"]) == (500, "ModelFailed")
    for _ in range(5):
        assert engine.server.ping() == 200
        assert engine.server.invoke(JPEG).status_code == 200
    assert engine.batches[taken:] == [(SECOND, 1)] * 5
    engine.play()
    until(lambda: is_whole(engine), "it was replaced")
    assert loads(engine)[len(before) :] == [FIRST]
    inside = computing(engine, pool)
    engine.play()
    assert [future.result().status_code for future in inside.values()] == [200, 200]


def test_a_context_that_breaks_on_one_fails_its_batch_and_no_ping(engine: Scripted, pool):
    before, healthy = len(engine.server.events(ENDED)), process(engine, FIRST)
    engine.play(broken=True, may_load=False, on=SECOND)
    with stopped(healthy):
        failed = engine.server.invoke(JPEG)
    assert (failed.status_code, failed.json()["error"]["kind"]) == (500, "ModelFailed")
    until(lambda: len(engine.server.events(ENDED)) > before, "its end was noticed")
    for _ in range(3):
        assert engine.server.ping() == 200
        assert engine.server.invoke(JPEG).status_code == 200
    assert process(engine, FIRST) == healthy


def test_memory_that_runs_out_on_one_makes_only_its_own_batches_smaller(engine: Scripted, pool):
    """Last here: that is for good."""
    engine.play(room=2, on=FIRST)
    for device, other, sizes in ((FIRST, SECOND, [8, 4, 2, 2, 2, 2]), (SECOND, FIRST, [8])):
        before = len(engine.batches)
        with stopped(process(engine, other)):
            with stopped(process(engine, device)):
                sent = waiting(engine.server, pool, [JPEG] * 8)
            assert {future.result().status_code for future in sent} == {200}
        assert engine.batches[before:] == [(device, size) for size in sizes]
        in_flight(engine.server, 0)
