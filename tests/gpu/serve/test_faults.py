"""What only a GPU does: memory that runs out in CUDA's allocator, a context that breaks, a graph that cannot be recorded."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from containers.core import manifest, preprocessing
from containers.core.manifest import HALF_TOLERANCE
from containers.serve import engines
from containers.serve.model_process import EXIT_POISONED
from tests.support.artifacts import photo
from tests.support.gpu import faulty, gpu_serving, probabilities, together
from tests.support.gpu_server import Script
from tests.support.server import until

JPEGS = [photo(seed, format="JPEG") for seed in range(12)]
SMALLER, NO_GRAPHS = "out of memory: smaller batches from now on", "no CUDA graphs: small batches take longer"


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(64) as executor:
        yield executor


@pytest.fixture(scope="module")
def expected(small) -> np.ndarray:
    """Of JPEGS, by plain torch on the CPU."""
    facts = manifest.read(small)
    plain = engines.load(small, facts, requested="eager", device="cpu", threads=1)
    return plain(np.stack([preprocessing.preprocess(body, facts.preprocessing) for body in JPEGS]))


def right(answers: list[requests.Response], expected: np.ndarray) -> bool:
    np.testing.assert_allclose(np.stack([probabilities(answer) for answer in answers]), expected, atol=HALF_TOLERANCE)
    return True


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_a_batch_that_does_not_fit_is_halved_and_one_photo_that_does_not_is_507(small, tmp_path, pool, expected, graphs):
    with faulty(small, tmp_path, cuda_graphs=graphs) as engine:
        server = engine.server
        processes = [process.pid for process in server.processes("kennel-model")]
        engine.play(each_mb=64, room_mb=208)  # three photos, and what the model itself needs
        futures = together(server, pool, JPEGS[:8])
        assert right([future.result() for future in futures], expected[:8])
        assert [event["max_batch"] for event in server.events(SMALLER)] == [4, 2]
        engine.play(each_mb=64, room_mb=16)
        refused = server.invoke(JPEGS[0])
        assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
        assert server.ping() == 200
        engine.play()
        futures = together(server, pool, JPEGS)
        assert right([future.result() for future in futures], expected)
        assert [process.pid for process in server.processes("kennel-model")] == processes


def test_a_gpu_that_is_nearly_full_at_the_start_serves_what_fits(resnet, tmp_path, pool):
    """600 MB, where a ResNet-50's batch of 256 takes more than a thousand and one photo fits for certain."""
    with faulty(resnet.model_dir, tmp_path, Script(limit_mb=600), max_batch=256) as engine:
        server = engine.server
        largest = server.events(SMALLER)[-1]["max_batch"]
        assert 1 <= largest < 256
        (loaded,) = server.events("model loaded")
        assert loaded["cuda_graphs"][-1:] == [largest] or server.events(NO_GRAPHS)
        futures = together(server, pool, resnet.photos)
        answers = np.stack([probabilities(future.result()) for future in futures])
    np.testing.assert_allclose(answers, resnet.expected, atol=HALF_TOLERANCE)
    print(f"largest batch in 600 MB: {largest}, graphs {loaded['cuda_graphs']}")


def test_a_net_that_waits_for_the_gpu_is_served_without_graphs(small, tmp_path, pool, expected):
    with faulty(small, tmp_path, Script(waits=True)) as engine:
        server = engine.server
        (refused,) = server.events(NO_GRAPHS)
        assert "captur" in refused["reason"]
        assert server.events("model loaded")[0]["cuda_graphs"] == []
        assert right([server.invoke(body) for body in JPEGS], expected)
        assert right([future.result() for future in together(server, pool, JPEGS)], expected)


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_a_kernel_that_asserts_costs_its_batch_and_the_process_no_other_photo(small, tmp_path, pool, expected, graphs):
    with faulty(small, tmp_path, cuda_graphs=graphs) as engine:
        server = engine.server
        (broken,) = server.processes("kennel-model")
        engine.play(broken=True, may_load=False)
        futures = together(server, pool, JPEGS)
        until(lambda: server.ping() == 503, "/ping says 503")
        until(lambda: sum(future.done() for future in futures) == 8, "the first batch is answered")
        failed = [future.result() for future in futures if future.done()]
        assert [(answer.status_code, answer.json()["error"]["kind"]) for answer in failed] == [(500, "ModelFailed")] * 8
        assert server.invoke(JPEGS[0]).status_code == 503
        engine.play()
        until(lambda: server.ping() == 200, "a new process serves")
        rest = [index for index, future in enumerate(futures) if futures[index].result() not in failed]
        assert right([futures[index].result() for index in rest], expected[rest])
        assert len(rest) == 4
        assert right([server.invoke(body) for body in JPEGS], expected)
        (ended,) = server.events("model process ended: replacing it")
        assert (ended["code"], ended["photos_lost"]) == (EXIT_POISONED, 0)
        assert [process.pid for process in server.processes("kennel-model")] != [broken.pid]
        assert len(server.events("model loaded")) == 2
        assert server.stop() == 0


def test_a_killed_model_process_is_replaced_and_its_gpu_is_used_again(small, tmp_path, expected):
    with gpu_serving(small, tmp_path / "log") as server:
        for _ in range(2):
            (victim,) = server.processes("kennel-model")
            victim.kill()
            until(lambda victim=victim: server.processes("kennel-model") not in ([], [victim]), "a replacement")
            until(lambda: server.ping() == 200, "/ping says 200")
            assert right([server.invoke(body) for body in JPEGS], expected)
        assert [event["device"] for event in server.events("model loaded")] == ["cuda:0"] * 3


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0(resnet, tmp_path):
    with gpu_serving(resnet.model_dir, tmp_path / "log") as server:
        url, statuses, told = f"{server.url}/invocations", [], threading.Event()
        broken_before: list[Exception] = []

        def caller(number: int) -> None:
            while True:
                try:  # a connection of its own each time: one that is kept may be closed between two requests
                    statuses.append(requests.post(url, data=resnet.photos[number], timeout=60).status_code)
                except requests.ConnectionError as error:
                    if told.is_set():
                        return
                    broken_before.append(error)

        callers = [threading.Thread(target=caller, args=(number,)) for number in range(32)]
        for thread in callers:
            thread.start()
        until(lambda: len(statuses) > 200, "200 answers")
        told.set()
        began, before = time.monotonic(), len(statuses)
        assert server.stop(signal.SIGTERM) == 0
        seconds = time.monotonic() - began
        for thread in callers:
            thread.join()
    assert not broken_before
    assert set(statuses) == {200}
    assert len(statuses) > before  # it went on for a second
    assert seconds < 30
    assert server.events("stopped")[0]["unanswered"] == 0
    print(f"{len(statuses)} answers, ended within {seconds:.1f} s")
