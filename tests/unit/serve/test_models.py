import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from containers.serve import models, sizing
from containers.serve.config import ServeConfig
from containers.serve.health import Health
from containers.serve.registry import Model, Registry
from tests.support.server import free_port


def ended():
    server = subprocess.Popen(["true"])
    server.wait()
    return server


def test_requests_that_wait_for_a_model_leave_threads_for_pings(monkeypatch):
    config = ServeConfig(multi_model=True, slots=2)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(2) as pool:
        busy = Model("dogs", "/nowhere", silent.getsockname()[1], ended())
        monkeypatch.setattr(Registry, "get", lambda *_: busy)
        app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))
        callers = [pool.submit(app.test_client().post, "/models/dogs/invoke", data=b"photo") for _ in range(2)]
        held = [silent.accept()[0] for _ in callers]
        refused = app.test_client().post("/models/dogs/invoke", data=b"photo")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        for connection in held:
            connection.close()
        assert [caller.result().status_code for caller in callers] == [500, 500]


@pytest.mark.parametrize(("leaving", "status"), [(True, 404), (False, 500)])
def test_an_invocation_that_finds_no_server_is_404_where_its_model_was_unloaded(monkeypatch, leaving, status):
    gone = Model("dogs", "/nowhere", free_port(), ended(), leaving=leaving)
    monkeypatch.setattr(Registry, "get", lambda *_: gone)
    config = ServeConfig(multi_model=True)
    app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))
    assert app.test_client().post("/models/dogs/invoke", data=b"photo").status_code == status


@pytest.mark.parametrize(("bound", "work", "method"), [("LOADS", "load", "POST"), ("UNLOADS", "unload", "DELETE")])
def test_loads_and_unloads_that_take_long_leave_threads_for_pings(monkeypatch, bound, work, method):
    begun, end = threading.Semaphore(0), threading.Event()

    def long(*_: object) -> None:
        begun.release()
        assert end.wait(60)

    monkeypatch.setattr(models, bound, 2)
    monkeypatch.setattr(Registry, work, long)
    config = ServeConfig(multi_model=True)
    app = models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0))

    def ask():
        path, body = ("/models", {"model_name": "a", "url": "/a"}) if method == "POST" else ("/models/a", None)
        return app.test_client().open(path, method=method, json=body)

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(ask) for _ in range(2)]
        for _ in callers:
            assert begun.acquire(timeout=60)
        refused = ask()
        end.set()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert [caller.result().status_code for caller in callers] == [200, 200]


@pytest.fixture
def client():
    config = ServeConfig(multi_model=True)
    return models.build(0, config, sizing.derive(config, cores=2, gpus=0), Health(0)).test_client()


@pytest.mark.parametrize(
    "query",
    ["limit=x", "limit=0", "limit=-1", "limit=", "limit=1&limit=2", "next_page_token=x", "next_page_token=" + "9" * 4000],
)
def test_a_page_that_cannot_be_is_said(client, query):
    refused = client.get(f"/models?{query}")
    assert (refused.status_code, refused.json["error"]["kind"]) == (400, "BadRequest")


def test_a_page_may_be_larger_than_any_list(client):
    assert client.get("/models?limit=999999999999&next_page_token=999999999999").json == {"models": []}


def test_what_can_be_loaded_can_be_named_in_a_path(monkeypatch, client):
    asked = []
    monkeypatch.setattr(Registry, "load", lambda _, name, url: asked.append(name))
    monkeypatch.setattr(Registry, "unload", lambda _, name: asked.append(name))
    for name in ("a//b", "a/invoked", "invoke", "ü %", "a/"):
        assert client.post("/models", json={"model_name": name, "url": "/a"}).status_code == 200
        assert client.delete(f"/models/{quote(name, safe='')}").status_code == 200
        assert asked == [name, name]
        asked.clear()
    for name in ("/a", "a/invoke"):
        assert client.post("/models", json={"model_name": name, "url": "/a"}).status_code == 400
    assert client.delete("/models//a").status_code == 404
    asked_wrongly = client.delete("/models/a/invoke")
    assert (asked_wrongly.status_code, asked_wrongly.headers["Allow"]) == (405, "OPTIONS, POST")
    assert asked == []
