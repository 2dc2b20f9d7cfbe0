"""What dies, breaks or hangs in a real server and is replaced, or takes the server with it; the engine follows a script."""

import os
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.artifacts import photo
from tests.support.scripted import scripted
from tests.support.server import PATIENCE, free_port, until
from tests.support.slow_model import gauge, waiting

JPEG = photo(1, format="JPEG")


@pytest.mark.parametrize("said", ["", "GET was unable to find an engine to execute this computation"], ids=["cuda", "library"])
def test_a_broken_cuda_context_fails_its_batch_and_pings_until_a_new_process_serves(model_dir, tmp_path, said: str):
    with scripted(model_dir, tmp_path) as engine:
        server = engine.server
        (broken,) = server.processes("kennel-model")
        engine.play(broken=True, said=said, may_load=False)
        failed = server.invoke(JPEG)
        assert (failed.status_code, failed.json()["error"]["kind"]) == (500, "ModelFailed")
        assert "Traceback" not in failed.text
        until(lambda: server.ping() == 503, "/ping says 503")
        assert server.invoke(JPEG).json()["error"]["kind"] == "NotReady"
        engine.play()
        until(lambda: server.ping() == 200, "a new process serves")
        assert server.invoke(JPEG).status_code == 200
        assert [process.pid for process in server.processes("kennel-model")] != [broken.pid]


def test_a_photo_inside_a_killed_model_process_is_500_and_those_that_wait_go_to_its_replacement(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path, max_batch=1) as engine:
        server, before = engine.server, len(engine.sizes)
        (victim,) = server.processes("kennel-model")
        engine.play(seconds=600)
        inside = pool.submit(server.invoke, JPEG)
        until(lambda: len(engine.sizes) > before, "the engine has it")
        behind = waiting(server, pool, [JPEG] * 3, before=1)
        engine.play(seconds=600, may_load=False)
        victim.kill()
        lost = inside.result()
        assert (lost.status_code, lost.json()["error"]["kind"]) == (500, "ModelFailed")
        assert not any(future.done() for future in behind)
        engine.play()
        assert [future.result().status_code for future in behind] == [200] * 3
        (ended,) = server.events("model process ended: replacing it")
        assert ended["photos_lost"] == 1


def test_pings_fail_while_the_only_model_process_is_dead(model_dir, tmp_path):
    with scripted(model_dir, tmp_path, stuck_after_seconds=600) as engine:
        engine.play(may_load=False)
        engine.server.processes("kennel-model")[0].kill()
        until(lambda: engine.server.ping() == 503, "/ping says 503")
        refused = engine.server.invoke(JPEG)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        engine.play()
        until(lambda: engine.server.ping() == 200, "a new process serves")


@pytest.mark.slow
def test_a_replacement_that_hangs_while_it_loads_is_replaced_itself(model_dir, tmp_path):
    with scripted(model_dir, tmp_path, load_timeout_seconds=10) as engine:
        server = engine.server
        engine.play(may_load=False)
        server.processes("kennel-model")[0].kill()
        until(lambda: server.events("model process does not finish loading: killing it"), "the hanging process was given up")
        assert server.ping() == 503
        engine.play()
        until(lambda: server.ping() == 200, "a new process serves")
        again = server.events("model process was killed while it loaded: trying again")  # more than one on a busy machine
        assert "not ready within 10 s" in again[0]["reason"]


@pytest.mark.slow
def test_a_stuck_front_is_replaced_its_connections_break_and_new_ones_are_answered(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path) as engine, requests.Session() as session:
        server = engine.server
        assert session.post(f"{server.url}/invocations", data=JPEG, timeout=60).status_code == 200
        (front,) = server.processes("kennel-front")
        front.suspend()
        held = pool.submit(session.post, f"{server.url}/invocations", data=JPEG, timeout=120)  # on the front's own connection
        unanswered = pool.submit(server.invoke, JPEG)
        assert isinstance(held.exception(), requests.ConnectionError)
        assert unanswered.result().status_code == 200
        assert [process.pid for process in server.processes("kennel-front")] != [front.pid]


def test_without_its_http_side_the_server_ends_and_leaves_nothing_behind(model_dir, tmp_path):
    with scripted(model_dir, tmp_path) as engine:
        server = engine.server
        children = server.processes("kennel-")
        server.processes("kennel-http")[0].kill()
        assert server.process.wait(PATIENCE) == 1
        assert server.events("gunicorn ended by itself")
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive


@pytest.mark.slow
def test_a_stdout_that_nobody_reads_any_more_ends_no_process_but_those_that_end_anyway(model_dir, tmp_path):
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with scripted(model_dir, tmp_path, {"PYTHONUNBUFFERED": ""}, port=free_port()) as engine:
        os.close(reader)
        server = engine.server
        others = server.processes("kennel-front") + server.processes("kennel-http")
        for _ in range(2):
            engine.play(broken=True, may_load=False)
            assert server.invoke(JPEG).status_code == 500
            until(lambda: server.ping() == 503, "the model process has ended")
            engine.play()
            until(lambda: server.ping() == 200, "a new process serves")
        assert server.processes("kennel-front") + server.processes("kennel-http") == others


def test_deaths_leave_sums_as_they_were_and_no_files_behind(model_dir, tmp_path):
    with scripted(model_dir, tmp_path) as engine:
        server = engine.server

        def files() -> set[Path]:
            maps = [area.path for child in server.processes("kennel-front") for area in child.memory_maps()]
            folder = next(Path(path).parent for path in maps if "kennel-metrics-" in path)
            return set(folder.iterdir())

        assert server.invoke(JPEG).status_code == 200
        before = files()
        for name in ("kennel-front", "kennel-model") * 2:
            (victim,) = server.processes(name)
            victim.kill()
            until(lambda name=name, victim=victim: server.processes(name) not in ([], [victim]), "a replacement")
            until(lambda: server.ping() == 200, "/ping says 200")
            assert server.invoke(JPEG).status_code == 200
        assert files() == before
        assert gauge(server, 'kennel_photos_total{outcome="classified"}') == 5
        assert gauge(server, "kennel_batch_photos_sum") == 5
