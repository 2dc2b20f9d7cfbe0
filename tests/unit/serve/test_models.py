import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

from containers.serve import models, sizing
from containers.serve.config import ServeConfig
from containers.serve.health import Health
from containers.serve.registry import Model, Registry


def test_requests_that_wait_for_a_model_leave_threads_for_pings(monkeypatch):
    config = ServeConfig(multi_model=True, slots=2)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2) as pool:
        busy = Model("dogs", "/nowhere", silent.getsockname()[1], subprocess.Popen(["true"]))
        monkeypatch.setattr(Registry, "get", lambda *_: busy)
        app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))
        callers = [pool.submit(app.test_client().post, "/models/dogs/invoke", data=b"photo") for _ in range(2)]
        held = [silent.accept()[0] for _ in callers]
        refused = app.test_client().post("/models/dogs/invoke", data=b"photo")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        for connection in held:
            connection.close()
        assert [caller.result().status_code for caller in callers] == [500, 500]
