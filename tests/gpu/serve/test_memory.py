"""Starts that are not as usual: on a GPU with little room, and with a net that no CUDA graph can hold."""

import numpy as np

from tests.support.gpu import assert_close, faulty, probabilities, together
from tests.support.gpu_server import Script

SMALLER, NO_GRAPHS = "out of memory: smaller batches from now on", "no CUDA graphs: small batches take longer"


def test_a_net_that_waits_for_the_gpu_is_served_without_graphs(small, tmp_path, pool):
    with faulty(small.model_dir, tmp_path, Script(waits=True)) as engine:
        server = engine.server
        (refused,) = server.events(NO_GRAPHS)
        assert "captur" in refused["reason"]
        assert server.events("model loaded")[0]["cuda_graphs"] == []
        answers = [future.result() for future in together(server, pool, small.photos)]
    assert_close(np.stack([probabilities(answer) for answer in answers]), small.expected)


def test_a_gpu_that_is_nearly_full_at_the_start_serves_what_fits(resnet, tmp_path, pool, record_property):
    """600 MB, where a ResNet-50's batch of 256 takes more than a thousand and one photo fits for certain."""
    with faulty(resnet.model_dir, tmp_path, Script(limit_mb=600), max_batch=256) as engine:
        server = engine.server
        shrunk = [event["max_batch"] for event in server.events(SMALLER)]
        (loaded,) = server.events("model loaded")
        record_property("batches and graphs", (shrunk, loaded["cuda_graphs"]))
        assert shrunk
        assert 1 <= shrunk[-1] < 256
        assert loaded["cuda_graphs"][-1:] == [shrunk[-1]] or server.events(NO_GRAPHS)
        answers = [future.result() for future in together(server, pool, resnet.photos)]
    assert_close(np.stack([probabilities(answer) for answer in answers]), resnet.expected, resnet.tolerance)
