import os
import subprocess

import psutil
import pytest

from containers.core import host
from containers.serve import registry
from containers.serve.config import ServeConfig
from containers.serve.errors import BadRequest, ModelFailed, OutOfMemory
from containers.serve.registry import Model, Registry
from tests.support.server import until


def model(name):
    """One whose server has ended."""
    server = subprocess.Popen(["true"])
    server.wait()
    return Model(name, "/nowhere", 1, server)


def test_a_load_that_fails_after_its_model_was_unloaded_leaves_the_one_loaded_since():
    loaded, old, new = Registry(ServeConfig(multi_model=True)), model("dogs"), model("dogs")
    loaded._models["dogs"] = new
    loaded._end(old)
    assert loaded._models == {"dogs": new}
    loaded._end(new)
    assert loaded.page(0, 10) == ([], None)
    assert not loaded._models


@pytest.mark.parametrize(("code", "error"), [(OutOfMemory.exit_code, OutOfMemory), (3, BadRequest), (1, ModelFailed)])
def test_a_model_s_server_that_gives_up_is_the_caller_s_507_400_or_500(code, error):
    gave_up = Model("dogs", "/nowhere", 1, subprocess.Popen(["sh", "-c", f"exit {code}"]), last_words="the reason")
    gave_up.server.wait()
    with pytest.raises(error, match="the reason"):
        registry._await_ready(gave_up, 60)


def shell(script: str) -> Model:
    server = subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE)
    return Model("dogs", "/nowhere", 1, server)


def test_the_reason_is_waited_for_that_comes_after_the_exit_code(monkeypatch):
    monkeypatch.setattr(registry, "_LAST_SECONDS", 60.0)
    with pytest.raises(BadRequest, match=r"^ArtifactError: the reason$"):
        registry._await_ready(shell("(sleep 0.5; echo 'kennel serve: ArtifactError: the reason' >&2) & exit 3"), 60)


def test_a_model_that_is_not_ready_in_time_is_said_so():
    slow = shell("exec sleep 60")
    with pytest.raises(ModelFailed, match=r"not ready within 0\.1 s"):
        registry._await_ready(slow, 0.1)
    Registry(ServeConfig())._end(slow)


def test_a_model_has_its_own_graceful_timeout_and_a_moment_more_to_end(monkeypatch):
    monkeypatch.setattr(registry, "_LAST_SECONDS", 60.0)
    slow = shell("trap 'sleep 1; exit 0' TERM; echo ready >&2; while :; do sleep 0.1; done")
    until(lambda: slow.last_words == "ready", "it runs")
    Registry(ServeConfig(graceful_timeout_seconds=0.1))._end(slow)
    assert slow.server.returncode == 0


def test_what_a_killed_model_leaves_behind_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_LAST_SECONDS", 0.2)
    (tmp_path / "model-0").mkdir()
    (tmp_path / "model-0" / "counter.db").touch()
    deaf = shell("trap '' TERM; echo ready >&2; while :; do sleep 0.1; done")
    deaf.metrics = tmp_path / "model-0"
    until(lambda: deaf.last_words == "ready", "it runs")
    Registry(ServeConfig(graceful_timeout_seconds=0.1))._end(deaf)
    assert deaf.server.returncode == -9
    assert not deaf.metrics.exists()


def test_models_that_load_hold_the_memory_they_will_need(monkeypatch, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(host, "free_memory", lambda: 1_000_000_000)
    loaded, busy = Registry(ServeConfig(multi_model=True)), model("busy")
    assert loaded._fitting(tmp_path) == 300_003_000
    loaded._models["busy"], busy.needs = busy, 699_997_001
    with pytest.raises(OutOfMemory, match="about 300 MB, 300 MB are free"):
        loaded._fitting(tmp_path)
    busy.needs = 699_997_000
    assert loaded._fitting(tmp_path) == 300_003_000
    busy.needs, busy.ready = 10**12, True  # what it took is not free any more
    assert loaded._fitting(tmp_path) == 300_003_000


def test_a_directory_that_cannot_be_looked_at_is_its_server_s_to_refuse(tmp_path):
    (tmp_path / "weights.safetensors").symlink_to("nowhere")
    for directory in (tmp_path, tmp_path / ("x" * 300)):
        assert Registry(ServeConfig(multi_model=True))._fitting(directory) == 300_000_000


@pytest.mark.parametrize(("device", "expected"), [("auto", ["4", "GPU-7", "4"]), ("cpu", [None] * 3)])
def test_each_model_goes_to_the_gpu_that_has_the_fewest(device, expected):
    loaded = Registry(ServeConfig(multi_model=True, device=device), gpus=("4", "GPU-7"))
    try:
        for name in "abc":
            loaded._models[name] = loaded._start(name, "/nowhere")
            child = psutil.Process(loaded._models[name].server.pid).environ()
            assert child.get("CUDA_VISIBLE_DEVICES") == (loaded._models[name].gpu or os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert [model.gpu for model in loaded._models.values()] == expected
        loaded._end(loaded._models["b"])
        loaded._models["d"] = loaded._start("d", "/nowhere")
        assert loaded._models["d"].gpu == expected[1]
    finally:
        for gone in list(loaded._models.values()):
            loaded._end(gone)
