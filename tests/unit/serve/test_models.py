import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from containers.serve import models, sizing
from containers.serve.config import ServeConfig
from containers.serve.errors import BadRequest, ModelFailed, OutOfMemory
from containers.serve.health import Health
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


@pytest.mark.parametrize(("code", "error"), [(OutOfMemory.exit_code, OutOfMemory), (3, BadRequest), (1, ModelFailed)])
def test_a_model_s_server_that_gives_up_is_the_caller_s_507_400_or_500(code, error):
    gave_up = _Model("dogs", "/nowhere", 1, subprocess.Popen(["sh", "-c", f"exit {code}"]), last_words="the reason")
    gave_up.server.wait()
    with pytest.raises(error, match="the reason"):
        models._await_ready(gave_up)


def test_requests_that_wait_for_a_model_leave_threads_for_pings(monkeypatch):
    config = ServeConfig(multi_model=True, slots=2)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2) as pool:
        busy = _Model("dogs", "/nowhere", silent.getsockname()[1], model("dogs").server)
        monkeypatch.setattr(Registry, "get", lambda *_: busy)
        app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))
        callers = [pool.submit(app.test_client().post, "/models/dogs/invoke", data=b"photo") for _ in range(2)]
        held = [silent.accept()[0] for _ in callers]
        refused = app.test_client().post("/models/dogs/invoke", data=b"photo")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        for connection in held:
            connection.close()
        assert [caller.result().status_code for caller in callers] == [500, 500]
