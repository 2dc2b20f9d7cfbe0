"""A real multi-model server whose models' engine does what a test says: loads that take long, models that hang or die."""

import os
import shutil
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from containers.core import host
from containers.serve import child
from tests.support.artifacts import photo
from tests.support.scripted import Scripted, scripted
from tests.support.server import until
from tests.support.slow_model import stopped

JPEG = photo(1, format="JPEG")
PATIENCE = 120


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    with scripted(Path("/nowhere"), tmp_path_factory.mktemp("multi"), environ, fronts=0, model_processes=0) as engine:
        yield engine


@pytest.fixture
def engine(running: Scripted):
    """With no model, and the default script; so again afterwards."""
    yield running
    running.play()
    for model in ask(running, "GET", "")["models"]:
        ask(running, "DELETE", f"/{model['modelName']}")
    until(lambda: not running.server.processes("kennel-model"), "no model is left")


def request(engine: Scripted, method: str, path: str, **options) -> requests.Response:
    return requests.request(method, f"{engine.server.url}/models{path}", timeout=PATIENCE, **options)


def ask(engine: Scripted, method: str, path: str) -> dict:
    return request(engine, method, path).json()


def load(engine: Scripted, name: str, url: object) -> requests.Response:
    return request(engine, "POST", "", json={"model_name": name, "url": str(url)})


def invoke(engine: Scripted, name: str, **headers: str) -> requests.Response:
    return request(engine, "POST", f"/{name}/invoke", data=JPEG, headers=headers)


def names(engine: Scripted) -> list[str]:
    return [model["modelName"] for model in ask(engine, "GET", "")["models"]]


def loading(engine: Scripted, pool: ThreadPoolExecutor, name: str, url: object):
    """A load that goes on until the script lets it, once its model process is there."""
    before = len(engine.server.processes("kennel-model"))
    engine.play(may_load=False)
    future = pool.submit(load, engine, name, url)
    until(lambda: len(engine.server.processes("kennel-model")) > before or future.done(), "its model process loads")
    return future


@pytest.mark.slow
def test_what_a_model_that_loads_will_need_is_not_given_to_another(engine, model_dir, tmp_path, pool):
    large = Path(shutil.copytree(model_dir, tmp_path / "large"))
    (large / "more.safetensors").touch()  # not in the manifest: nobody reads it
    os.truncate(large / "more.safetensors", host.free_memory() // 5)  # three times as much is needed, twice that is not there
    first = loading(engine, pool, "a", large)
    refused = load(engine, "b", large)
    assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
    engine.play()
    assert first.result().status_code == 200
    assert load(engine, "b", large).status_code == 200


def supervisor(engine: Scripted, url: object) -> psutil.Process:
    """The first process of the model at `url`; the others are its children."""
    family = psutil.Process(engine.server.process.pid).children(recursive=True)
    return min((member for member in family if str(url) in member.cmdline()), key=psutil.Process.create_time)


def port(engine: Scripted) -> int:
    """Where the only model listens, 0 once it does not."""
    family = psutil.Process(engine.server.process.pid).children(recursive=True)
    ports = {c.laddr.port for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    return max(ports - {engine.server.port}, default=0)


@pytest.mark.slow
def test_a_model_that_still_loads_is_not_loaded_and_its_name_is_taken(engine, model_dir, pool):
    first = loading(engine, pool, "a", model_dir)
    again = load(engine, "a", model_dir)
    assert (again.status_code, again.json()["error"]["kind"]) == (409, "AlreadyLoaded")
    assert request(engine, "GET", "/a").status_code == 404
    assert names(engine) == []
    early = invoke(engine, "a")
    assert (early.status_code, early.json()["error"]["kind"], early.headers["Retry-After"]) == (503, "NotReady", "5")
    engine.play()
    assert first.result().status_code == 200
    assert names(engine) == ["a"]
    assert invoke(engine, "a").status_code == 200


@pytest.mark.slow
def test_a_model_may_be_unloaded_while_it_loads(engine, model_dir, pool):
    first = loading(engine, pool, "a", model_dir)
    assert request(engine, "DELETE", "/a").status_code == 200
    told = first.result()
    assert (told.status_code, told.json()["error"]["message"]) == (500, "the model was unloaded while it loaded")
    assert engine.server.processes("kennel-model") == []
    engine.play()
    assert load(engine, "a", model_dir).status_code == 200


@pytest.mark.slow
def test_while_a_model_is_unloaded_what_it_accepted_is_answered_and_it_is_not_loaded_for_others(engine, model_dir, pool):
    assert load(engine, "a", model_dir).status_code == 200
    (process,) = engine.server.processes("kennel-model")
    head = b"POST /models/a/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    with stopped(process), socket.create_connection(("127.0.0.1", engine.server.port), timeout=PATIENCE) as slow:
        slow.sendall(head + JPEG[:10])
        accepted = pool.submit(invoke, engine, "a")
        inner = f"http://127.0.0.1:{port(engine)}/metrics"
        until(lambda: "kennel_photos_submitted 1.0" in requests.get(inner, timeout=60).text, "the photo waits for the model")
        unloading = pool.submit(request, engine, "DELETE", "/a")
        until(lambda: names(engine) == [], "it is being unloaded")
        assert request(engine, "GET", "/a").status_code == 404
        assert invoke(engine, "a").status_code == 404
        assert load(engine, "a", model_dir).status_code == 409  # its memory is not free yet
        until(lambda: not port(engine), "its port is closed")
        slow.sendall(JPEG[10:])
        assert slow.recv(4096).split()[1] == b"404"
        assert not unloading.done()
    assert accepted.result().status_code == 200
    assert unloading.result().status_code == 200


@pytest.mark.slow
def test_a_killed_model_leaves_no_counters_behind(engine, model_dir):
    assert load(engine, "a", model_dir).status_code == 200
    victim = supervisor(engine, model_dir)
    folder = Path(victim.environ()[child.METRICS])
    assert list(folder.iterdir())
    victim.kill()
    until(lambda: request(engine, "GET", "/a").status_code == 404, "its death was noticed")
    assert not folder.exists()
    assert folder.parent.exists()


@pytest.mark.parametrize(
    "document",
    [
        b'{"model_name": "a", "url": "/\\ud800"}',
        b'{"model_name": "\\ud800", "url": "/a"}',
        b'{"model_name": "a", "url": "/%s"}' % (b"x" * 5000),
        b'{"model_name": "%s", "url": "/a"}' % (b"x" * 5000),
        b'{"model_name": "a", "url": "/%s"}' % (b"x" * 300),
        b'{"model_name": "a", "url": ["/a"]}',
        b"[" * 90_000,
        b"[1]",
        b"\xff",
    ],
    ids=range(9),
)
def test_a_load_that_makes_no_sense_is_the_caller_s_400(engine, document):
    refused = request(engine, "POST", "", data=document)
    assert (refused.status_code, refused.json()["error"]["kind"]) == (400, "BadRequest"), refused.text


@pytest.mark.slow
def test_models_come_and_go_while_others_are_asked(engine, model_dir):
    """Four threads load, ask and unload a model each, twice; two more ask whatever there is."""
    ended, seen = threading.Event(), Counter()

    def owner(name: str) -> None:
        for _ in range(2):
            seen["load", load(engine, name, model_dir).status_code] += 1
            for _ in range(5):
                seen["own", invoke(engine, name).status_code] += 1
            seen["unload", request(engine, "DELETE", f"/{name}").status_code] += 1

    def stranger() -> None:
        while not ended.is_set():
            for name in "abcd":
                seen["any", invoke(engine, name).status_code] += 1
            assert len(names(engine)) <= 4
            time.sleep(0.02)

    with ThreadPoolExecutor(6) as pool:
        strangers = [pool.submit(stranger) for _ in range(2)]
        try:
            for done in [pool.submit(owner, name) for name in "abcd"]:
                done.result()
        finally:
            ended.set()
        for done in strangers:
            done.result()
    assert {(what, code) for what, code in seen if what != "any"} == {("load", 200), ("own", 200), ("unload", 200)}, seen
    assert {code for what, code in seen if what == "any"} <= {200, 404, 503}, seen
    assert seen["any", 200]
    assert names(engine) == []
    assert engine.server.processes("kennel-model") == []
