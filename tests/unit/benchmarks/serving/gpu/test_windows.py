import sys
from pathlib import Path

import pytest

from benchmarks.serving.gpu import windows
from benchmarks.serving.sides import Side
from tests.support import artifacts


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The real server with an engine that computes nothing."""
    folder = tmp_path_factory.mktemp("subject")
    artifacts.save(folder / "model")
    program = ("-m", "benchmarks.serving.modelless_server", "--model-dir", "{model}", "--host", "127.0.0.1", "--port", "{port}")
    settings = {"SERVE_ENGINE": "none", "SERVE_DEVICE": "cpu", "SERVE_FRONTS": "1", "SERVE_MODEL_PROCESSES": "1"}
    side = Side(name="none", peer="", engine="none", command=(sys.executable, *program), environ=settings)
    running = side.start(folder, Path(sys.executable), folder)
    yield running
    running.stop()


def test_a_window_counts_what_the_server_did_in_it(server, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(artifacts.photo(index, format="JPEG"))
    generators = windows.Generators(windows.requests_of(tmp_path))
    try:
        before = windows.counts(server)
        found = windows.measure(server, generators, "none", 6, 1, 1.0)
        alone = windows.measure(server, generators, "none", 1, 1, 0.5)
    finally:
        generators.stop()
    answered = windows.counts(server)['kennel_requests_total{route="/invocations",status="200"}']
    assert 'kennel_requests_total{route="/invocations",status="200"}' not in before
    assert (found.side, found.concurrency, found.round, found.failures, alone.failures) == ("none", 6, 1, 0, 0)
    assert 0 < found.rate + alone.rate / 2 <= answered  # those before the window opens and after it closes count elsewhere
    assert 0 < found.p50_ms <= found.p99_ms
    assert 1 <= found.batch <= 6
    assert alone.batch == 1
    assert set(alone.batches) == {"1"}
    assert alone.batches["1"] + found.batch * sum(found.batches.values()) == pytest.approx(answered, rel=0.01)
    assert 0 < found.engine_busy < 1
    assert 0 < found.model_cpu < found.cpu_ms / 1000 * answered
    assert 0 < found.generator_busy <= 1.1
    assert found.generators_cpu_ms > 0
