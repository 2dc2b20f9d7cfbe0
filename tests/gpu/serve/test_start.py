"""A server on a GPU as its users start it, from the first request to SIGTERM, on one ResNet-50."""

import signal
import threading
import time

import numpy as np
import pytest
import requests

from containers.core.manifest import HALF_TOLERANCE
from tests.support.gpu import assert_close, gpu_serving, probabilities, together
from tests.support.server import until


@pytest.fixture(scope="module")
def server(resnet, tmp_path_factory):
    """Everything is left to it, the device too."""
    log = tmp_path_factory.mktemp("log") / "log"
    with gpu_serving(resnet.model_dir, log, device="auto", fronts=0) as running:
        yield running


def test_it_takes_the_gpu_and_records_a_graph_for_every_batch_size(server):
    (loaded,) = server.events("model loaded")
    assert (loaded["engine"], loaded["device"]) == ("eager", "cuda:0")
    assert loaded["cuda_graphs"] == [1, 2, 4, 8, 16, 32]
    assert loaded["golden_difference"] <= HALF_TOLERANCE
    assert not server.events("no CUDA graphs: small batches take longer")


def test_it_answers_what_the_cpu_answers_one_by_one_and_in_batches(server, resnet, pool, record_property):
    before = _counts(server)
    alone = np.stack([probabilities(server.invoke(body)) for body in resnet.photos])
    at_once = np.stack([probabilities(future.result()) for future in together(server, pool, resnet.photos)])
    record_property("worst", [float(np.abs(answers - resnet.expected).max()) for answers in (alone, at_once)])
    assert_close(alone, resnet.expected, resnet.tolerance)
    assert_close(at_once, resnet.expected, resnet.tolerance)
    counts = {name: value - before.get(name, 0) for name, value in _counts(server).items()}
    assert counts["kennel_batch_photos_sum"] == 2 * len(resnet.photos)
    assert counts["kennel_batch_photos_count"] == len(resnet.photos) + 1  # those that came at once were one batch of 32


def _counts(server) -> dict[str, float]:
    lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_a_killed_model_process_is_replaced_on_the_same_gpu(server, resnet):
    (victim,) = server.processes("kennel-model")
    victim.kill()
    until(lambda: server.processes("kennel-model") not in ([], [victim]), "a replacement")
    until(lambda: server.ping() == 200, "/ping says 200")
    assert_close(np.stack([probabilities(server.invoke(body)) for body in resnet.photos]), resnet.expected, resnet.tolerance)
    assert [event["device"] for event in server.events("model loaded")] == ["cuda:0"] * 2


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0(server, resnet, record_property):
    url, statuses, told = f"{server.url}/invocations", [], threading.Event()
    broken_before: list[Exception] = []

    def caller(number: int) -> None:
        while True:
            try:  # a connection of its own each time: one that is kept may be closed between two requests
                statuses.append(requests.post(url, data=resnet.photos[number], timeout=60).status_code)
            except requests.ConnectionError as error:
                if not told.is_set():
                    broken_before.append(error)
                return

    callers = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(16)]
    for thread in callers:
        thread.start()
    until(lambda: len(statuses) > 100, "100 answers")
    before = len(statuses)
    told.set()
    began = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    seconds = time.monotonic() - began
    for thread in callers:
        thread.join()
    record_property("seconds", round(seconds, 2))
    assert not broken_before
    assert set(statuses) == {200}
    assert len(statuses) > before  # it went on for a second
    assert seconds < 30
    assert server.events("stopped")[0]["unanswered"] == 0
