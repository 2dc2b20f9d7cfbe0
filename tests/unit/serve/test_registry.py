import os
import subprocess

import psutil
import pytest

from containers.serve import registry
from containers.serve.config import ServeConfig
from containers.serve.errors import BadRequest, ModelFailed, OutOfMemory
from containers.serve.registry import Model, Registry


def model(name):
    """One whose server has ended."""
    server = subprocess.Popen(["true"])
    server.wait()
    return Model(name, "/nowhere", 1, server)


def test_a_load_that_fails_after_its_model_was_unloaded_leaves_the_one_loaded_since():
    loaded, old, new = Registry(ServeConfig(multi_model=True)), model("dogs"), model("dogs")
    loaded._models["dogs"] = new
    loaded._end(old)
    assert loaded.get("dogs") is new
    loaded._end(new)
    assert loaded.page(0, 10) == ([], None)
    assert not loaded._models


@pytest.mark.parametrize(("code", "error"), [(OutOfMemory.exit_code, OutOfMemory), (3, BadRequest), (1, ModelFailed)])
def test_a_model_s_server_that_gives_up_is_the_caller_s_507_400_or_500(code, error):
    gave_up = Model("dogs", "/nowhere", 1, subprocess.Popen(["sh", "-c", f"exit {code}"]), last_words="the reason")
    gave_up.server.wait()
    with pytest.raises(error, match="the reason"):
        registry._await_ready(gave_up)


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
