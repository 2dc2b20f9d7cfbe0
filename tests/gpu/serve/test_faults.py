"""What only a GPU does to a server: memory that runs out in CUDA's allocator, and a context that breaks.

One server with CUDA graphs and one without, each through all of it; the second is also what may be forced.
"""

import numpy as np
import pytest

from containers.serve.model_process import EXIT_POISONED
from tests.support.gpu import assert_close, faulty, probabilities, together
from tests.support.server import until

SMALLER = "out of memory: smaller batches from now on"


@pytest.fixture(scope="module", params=["auto", "off"])
def engine(request, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with faulty(small.model_dir, folder, cuda_graphs=request.param, engine="eager", max_batch=8) as running:
        running.graphs = request.param
        yield running


@pytest.fixture
def server(engine):
    yield engine.server
    engine.play()


def test_graphs_are_recorded_unless_they_are_switched_off(engine, server, small):
    (loaded,) = server.events("model loaded")
    assert (loaded["engine"], loaded["device"]) == ("eager", "cuda:0")
    assert loaded["cuda_graphs"] == ([1, 2, 4, 8] if engine.graphs == "auto" else [])
    assert not server.events("no CUDA graphs: small batches take longer")
    assert_close(np.stack([probabilities(server.invoke(body)) for body in small.photos]), small.expected)


def test_a_batch_that_does_not_fit_is_halved_and_one_photo_that_does_not_is_507(engine, server, small, pool):
    processes = [process.pid for process in server.processes("kennel-model")]
    engine.play(each_mb=64, room_mb=208)  # three photos, and what the model itself needs
    answers = [future.result() for future in together(server, pool, small.photos[:8])]
    assert_close(np.stack([probabilities(answer) for answer in answers]), small.expected[:8])
    assert [event["max_batch"] for event in server.events(SMALLER)] == [4, 2]
    engine.play(each_mb=64, room_mb=16)
    refused = server.invoke(small.photos[0])
    assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
    assert server.ping() == 200
    engine.play()
    answers = [future.result() for future in together(server, pool, small.photos)]
    assert_close(np.stack([probabilities(answer) for answer in answers]), small.expected)
    assert [process.pid for process in server.processes("kennel-model")] == processes


def test_a_kernel_that_asserts_costs_its_batch_and_the_process_but_no_other_photo(engine, server, small, pool):
    (broken,) = server.processes("kennel-model")
    loads, ends = len(server.events("model loaded")), len(server.events("model process ended: replacing it"))
    engine.play(broken=True, may_load=False)
    futures = together(server, pool, small.photos)
    until(lambda: server.ping() == 503, "/ping says 503")
    assert server.invoke(small.photos[0]).status_code == 503
    engine.play()
    until(lambda: server.ping() == 200, "a new process serves")
    answers = [future.result() for future in futures]
    failed = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(failed) <= 8  # one batch, of as many as memory left
    assert {(answer.status_code, answer.json()["error"]["kind"]) for answer in failed} == {(500, "ModelFailed")}
    rest = [index for index, answer in enumerate(answers) if answer not in failed]
    assert_close(np.stack([probabilities(answers[index]) for index in rest]), small.expected[rest])
    assert_close(np.stack([probabilities(server.invoke(body)) for body in small.photos]), small.expected)
    (ended,) = server.events("model process ended: replacing it")[ends:]
    assert ended["photos_lost"] == 0
    assert ended["code"] == EXIT_POISONED
    assert [process.pid for process in server.processes("kennel-model")] != [broken.pid]
    assert len(server.events("model loaded")) == loads + 1
