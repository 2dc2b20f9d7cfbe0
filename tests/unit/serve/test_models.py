import subprocess

from containers.serve.config import ServeConfig
from containers.serve.models import Registry, _Model


def model(name):
    """One whose server has ended."""
    server = subprocess.Popen(["true"])
    server.wait()
    return _Model(name, "/nowhere", 1, server)


def test_a_load_that_fails_after_its_model_was_unloaded_leaves_the_one_loaded_since():
    registry, old, new = Registry(ServeConfig(multi_model=True)), model("dogs"), model("dogs")
    registry._models["dogs"] = new
    registry._end(old)
    assert registry.get("dogs") is new
    registry._end(new)
    assert registry.page(0, 10) == ([], None)
    assert not registry._models
