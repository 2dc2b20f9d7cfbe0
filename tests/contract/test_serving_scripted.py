"""What a caller sees when the engine behind a real server is slow or out of memory, and what settings change.

Processes, HTTP and slots are real; the engine does what its script says (tests/support/scripted_server.py).
"""

import json
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest
import requests

from tests.support.artifacts import photo
from tests.support.scripted import Scripted, scripted
from tests.support.server import free_port, until
from tests.support.slow_model import gauge, stopped, waiting

JPEG = photo(1, format="JPEG")


def together(engine: Scripted, pool: ThreadPoolExecutor, count: int) -> list[Future]:
    """`count` requests that all wait before the model looks: it is stopped until they do."""
    (model,) = engine.server.processes("kennel-model")
    with stopped(model):
        return waiting(engine.server, pool, [JPEG] * count)


def test_an_idle_server_computes_one_photo_at_a_time_a_busy_one_what_has_gathered(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path) as engine:
        before = len(engine.sizes)
        for _ in range(3):
            assert engine.server.invoke(JPEG).status_code == 200
        assert engine.sizes[before:] == [1, 1, 1]
        assert {future.result().status_code for future in together(engine, pool, 8)} == {200}
        assert engine.sizes[before + 3 :] == [8]


def test_memory_that_runs_out_halves_the_batch_and_one_photo_that_does_not_fit_is_507(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path) as engine:
        server, before = engine.server, len(engine.sizes)
        engine.play(room=3)
        assert {future.result().status_code for future in together(engine, pool, 8)} == {200}
        assert engine.sizes[before:] == [8, 4, 2, 2, 2, 2]
        assert server.events("out of memory: smaller batches from now on")
        before = len(engine.sizes)
        assert {future.result().status_code for future in together(engine, pool, 4)} == {200}
        assert engine.sizes[before:] == [2, 2]  # for good
        engine.play(room=0)
        refused = server.invoke(JPEG)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
        assert len(refused.content) < 2048
        assert server.ping() == 200
        engine.play()
        assert server.invoke(JPEG).status_code == 200


@pytest.mark.slow
def test_a_process_whose_limit_shrank_leaves_the_rest_to_its_neighbour(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path, model_processes=2) as engine:
        server = engine.server
        until(lambda: gauge(server, "kennel_model_processes_ready") == 2, "both serve")
        shrunk, other = server.processes("kennel-model")

        engine.play(room=2)
        with stopped(other):
            with stopped(shrunk):
                first = waiting(server, pool, [JPEG] * 8)
            assert {future.result().status_code for future in first} == {200}
            with stopped(shrunk):
                before, second = len(engine.sizes), waiting(server, pool, [JPEG] * 8)
                engine.play(seconds=600)
            until(lambda: len(engine.sizes) > before, "it computes")
        until(lambda: len(engine.sizes) > before + 1, "its neighbour does")
        engine.play()
        assert {future.result().status_code for future in second} == {200}
        assert engine.sizes[before:] == [2, 6]


def test_photos_that_were_computed_before_memory_ran_out_are_answered(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path) as engine:
        warm, before = sum(engine.sizes), len(engine.sizes)
        engine.play(lasts=warm + 2)
        answers = [future.result().status_code for future in together(engine, pool, 4)]
        assert engine.sizes[before:] == [4, 2, 2, 1]
        assert sorted(answers) == [200, 200, 507, 507]


def test_memory_that_a_library_could_not_get_halves_the_batch_too(model_dir, tmp_path, pool):
    with scripted(model_dir, tmp_path) as engine:
        server, before = engine.server, len(engine.sizes)
        (process,) = server.processes("kennel-model")
        engine.play(room=2, full="CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        assert {future.result().status_code for future in together(engine, pool, 4)} == {200}
        assert engine.sizes[before:] == [4, 2, 2]
        assert server.processes("kennel-model") == [process]


@pytest.mark.slow
def test_at_four_times_its_capacity_it_answers_what_it_can_and_pings_within_two_seconds(model_dir, tmp_path):
    """40 photos a second are possible (batches of 4 in 0.1 s), 160 are offered by 128 callers: a queue would be 3 s long."""
    with scripted(model_dir, tmp_path, slots=8, max_batch=4) as engine:
        engine.play(seconds=0.1)
        server, until_then, seen = engine.server, time.monotonic() + 10, Counter()
        lock = threading.Lock()

        def caller(number: int) -> None:
            with requests.Session() as session:
                due = time.monotonic() + number / 160
                while due < until_then:
                    time.sleep(max(0.0, due - time.monotonic()))
                    answer = session.post(f"{server.url}/invocations", data=JPEG, timeout=60)
                    with lock:
                        seen[answer.status_code, answer.headers.get("Retry-After")] += 1
                    due += 128 / 160

        callers = [threading.Thread(target=caller, args=(number,)) for number in range(128)]
        for thread in callers:
            thread.start()
        pings = []
        while time.monotonic() < until_then:
            began = time.monotonic()
            assert server.ping(timeout=60) == 200
            pings.append(time.monotonic() - began)
            time.sleep(0.2)
        for thread in callers:
            thread.join()
        assert set(seen) == {(200, None), (503, "1")}, seen
        assert seen[200, None] > 100, seen  # 400 are possible: refusals leave the accepted their share, on any machine
        assert sum(seconds >= 2 for seconds in pings) <= 1, pings  # of a queue each would be; one the machine may have held up


def test_what_the_platform_sends_is_given_back_with_errors_too(model_dir, tmp_path):
    with scripted(model_dir, tmp_path) as engine:
        sent = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1", "X-Amzn-SageMaker-Inference-Id": "id-1"}
        refused = engine.server.invoke(b"no photo", **sent)
        assert refused.status_code == 400
        assert refused.headers["X-Amzn-SageMaker-Custom-Attributes"] == "trace=1"
        assert refused.json()["error"]["request_id"] == refused.headers["X-Request-Id"] == "id-1"
        (line,) = [event for event in engine.server.events("request") if event["request_id"] == "id-1"]
        assert (line["status"], line["error"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    "level", [{"KENNEL_LOG_LEVEL": "WARNING"}, {"SAGEMAKER_CONTAINER_LOG_LEVEL": "30"}], ids=["ours", "sagemaker"]
)
def test_the_log_level_is_the_environment_s(model_dir, tmp_path, level: dict[str, str]):
    with scripted(model_dir, tmp_path, level, port=free_port()) as engine:
        assert engine.server.invoke(JPEG).status_code == 200
        assert engine.server.log.read_text() == ""
        engine.play(room=0)
        assert engine.server.invoke(JPEG).status_code == 507
        assert {json.loads(line)["level"] for line in engine.server.log.read_text().splitlines()} == {"ERROR"}


def refused(engine: Scripted, status: int, kind: str, retry_after: str | None = None) -> None:
    """By an answer that is clean, whole, and says when to try again only where that helps."""
    sent = {"X_Amzn_SageMaker_Custom_Attributes": "trace=1", "X_Amzn_SageMaker_Inference_Id": "id-1"}
    answer = engine.server.invoke(JPEG, **sent)
    assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "trace=1"
    error = answer.json()["error"]
    assert (error["kind"], error["request_id"], answer.headers["X-Request-Id"]) == (kind, "id-1", "id-1")
    assert len(answer.text) < 2048
    assert "Traceback" not in answer.text


def test_errors_of_the_model_are_clean_json(model_dir, tmp_path):
    with scripted(model_dir, tmp_path) as engine:
        engine.play(room=0)
        refused(engine, 507, "OutOfMemory")
        engine.play(broken=True, may_load=False)
        refused(engine, 500, "ModelFailed")
        until(lambda: engine.server.ping() == 503, "the model process has ended")
        refused(engine, 503, "NotReady", "5")


def test_errors_of_a_server_that_has_no_time_are_clean_json(model_dir, tmp_path):
    with scripted(model_dir, tmp_path, slots=1, request_timeout_seconds=3) as engine:
        engine.play(seconds=600)
        refused(engine, 504, "DeadlineExceeded")
        refused(engine, 503, "Overloaded", "1")  # its only slot may still be written


def test_it_listens_where_sagemaker_says_and_opens_no_other_port(model_dir, tmp_path):
    wanted = free_port()
    told = {"SAGEMAKER_BIND_TO_PORT": str(wanted), "SAGEMAKER_SAFE_PORT_RANGE": "23000-23999"}
    with scripted(model_dir, tmp_path, told, port=None) as engine:
        assert engine.server.port == wanted
        assert engine.server.invoke(JPEG).status_code == 200
        everyone = [psutil.Process(engine.server.process.pid), *engine.server.processes("kennel-")]
        listening = {c.laddr.port for p in everyone for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {wanted}
