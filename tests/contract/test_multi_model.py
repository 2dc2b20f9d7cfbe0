"""SageMaker's multi-model endpoint API, against a real server."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from containers.serve import supervisor
from tests.support.artifacts import photo
from tests.support.memory import resident_mb
from tests.support.server import UNHURRIED, Server, free_port, serving, until
from tests.support.slow_model import http_side, in_flight_at, stopped, was_sent

JPEG = photo(1, format="JPEG")
PATIENCE = 500
"""Longer than the server itself waits for a model."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    log = tmp_path_factory.mktemp("log") / "log"
    first = free_port()
    environ = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_SAFE_PORT_RANGE": f"{first}-{first + 200}"}
    with serving(Path("/nowhere"), log, environ, fronts=0, model_processes=0, **UNHURRIED) as server:
        yield server


@pytest.fixture
def server(running: Server):
    """With no model; so again afterwards, whatever became of the test."""
    yield running
    until(lambda: emptied(running), "no model is left", PATIENCE)


def emptied(server: Server) -> bool:
    for name in names(server)[0]:
        unload(server, name)
    return not server.processes("kennel-model")


def load(server: Server, name: str, url: Path | str) -> requests.Response:
    return requests.post(f"{server.url}/models", json={"model_name": name, "url": str(url)}, timeout=PATIENCE)


def unload(server: Server, name: str) -> requests.Response:
    return requests.delete(f"{server.url}/models/{name}", timeout=PATIENCE)


def names(server: Server, **query: str) -> tuple[list[str], str | None]:
    answer = requests.get(f"{server.url}/models", params=query, timeout=PATIENCE).json()
    return [model["modelName"] for model in answer["models"]], answer.get("nextPageToken")


def test_models_come_and_go(server: Server, model_dir: Path):
    assert server.ping() == 200  # with no model at all
    assert names(server) == ([], None)
    for name in ("a", "b"):
        assert load(server, name, model_dir).status_code == 200
    assert load(server, "a", model_dir).status_code == 409
    assert names(server) == (["a", "b"], None)
    first, token = names(server, limit="1")
    assert (first, names(server, limit="1", next_page_token=token)) == (["a"], (["b"], None))
    assert requests.get(f"{server.url}/models/a", timeout=PATIENCE).json() == {"modelName": "a", "modelUrl": str(model_dir)}

    def invoke(name: str) -> requests.Response:
        headers = {"Content-Type": "image/jpeg", "X-Amzn-SageMaker-Custom-Attributes": "x=1"}
        return requests.post(f"{server.url}/models/{name}/invoke", data=JPEG, headers=headers, timeout=PATIENCE)

    answer = invoke("a")
    assert answer.json()["predictions"][0]["class"]
    assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "x=1"
    assert invoke("c").status_code == 404
    before = server.processes("kennel-model")
    assert len(before) == 2
    assert unload(server, "a").status_code == 200
    assert len(server.processes("kennel-model")) == 1  # its memory is free
    assert unload(server, "a").status_code == 404
    assert requests.get(f"{server.url}/models/a", timeout=PATIENCE).status_code == 404
    assert invoke("b").status_code == 200
    unload(server, "b")


def test_unloading_gives_the_memory_back(server: Server, model_dir: Path):
    def round_trip() -> tuple[float, float]:
        assert load(server, "a", model_dir).status_code == 200
        assert requests.post(f"{server.url}/models/a/invoke", data=JPEG, timeout=PATIENCE).status_code == 200
        loaded = resident_mb(server.process.pid)
        assert unload(server, "a").status_code == 200
        return loaded, resident_mb(server.process.pid)

    _, before = round_trip()  # the front has seen everything once
    loaded, after = round_trip()
    assert loaded > before + 50  # torch's
    assert after < before + 5


def test_the_models_listen_on_ports_that_sagemaker_leaves_to_the_container(server: Server, model_dir: Path):
    assert load(server, "a", model_dir).status_code == 200
    family = psutil.Process(server.process.pid).children(recursive=True)
    ports = {c.laddr.port for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN} - {server.port}
    first, last = map(int, psutil.Process(server.process.pid).environ()["SAGEMAKER_SAFE_PORT_RANGE"].split("-"))
    unload(server, "a")
    assert len(ports) == 1
    assert first <= ports.pop() <= last


def test_a_model_whose_server_died_can_be_loaded_again(server: Server, model_dir: Path):
    assert load(server, "a", model_dir).status_code == 200
    own = [child for child in psutil.Process(server.process.pid).children(recursive=True) if str(model_dir) in child.cmdline()]
    min(own, key=psutil.Process.create_time).kill()  # its supervisor; the others are its children
    until(
        lambda: requests.get(f"{server.url}/models/a", timeout=PATIENCE).status_code == 404,
        "the dead model is not loaded any more",
    )
    assert names(server) == ([], None)
    assert load(server, "a", model_dir).status_code == 200
    unload(server, "a")


def test_what_cannot_be_loaded_is_said_and_leaves_nothing_behind(server: Server, model_dir: Path, tmp_path: Path):
    refused = load(server, "x", tmp_path)
    assert refused.status_code == 400
    assert "ArtifactError" in refused.json()["error"]["message"]
    assert requests.post(f"{server.url}/models", data=b"{", timeout=PATIENCE).status_code == 400
    for url in ("--help", "model", "/model\0", ""):
        assert load(server, "x", url).status_code == 400
    huge = tmp_path / "huge"
    huge.mkdir()
    (huge / "weights.safetensors").touch()
    os.truncate(huge / "weights.safetensors", 1 << 42)  # sparse
    assert load(server, "huge", huge).status_code == 507
    assert names(server) == ([], None)
    assert server.processes("kennel-model") == []


@contextmanager
def accepted(server: Server, pool: ThreadPoolExecutor):
    """An invocation of model a that its stopped model process holds up; it goes on after the block."""
    (process,) = server.processes("kennel-model")
    with stopped(process):
        waiting = pool.submit(requests.post, f"{server.url}/models/a/invoke", data=JPEG, timeout=PATIENCE)
        family = psutil.Process(server.process.pid).children(recursive=True)
        ports = {c.laddr.port for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN} - {server.port}
        inner = f"http://127.0.0.1:{ports.pop()}"
        in_flight_at(inner, 1, [waiting])
        yield waiting, inner, process.ppid()


def test_unloading_answers_what_the_model_accepted(server: Server, model_dir: Path, pool: ThreadPoolExecutor):
    assert load(server, "a", model_dir).status_code == 200
    with accepted(server, pool) as (waiting, inner, its_server):
        with stopped(http_side(its_server)):  # else its port closes a second later
            unloading = pool.submit(unload, server, "a")
            until(lambda: requests.get(f"{inner}/ping", timeout=PATIENCE).status_code == 503, "the model was told to stop")
        assert not waiting.done()
    assert waiting.result().json()["predictions"][0]["class"]
    assert unloading.result().status_code == 200
    assert names(server) == ([], None)


def multi_model_server(folder: Path):
    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    return serving(Path("/nowhere"), folder / "log", environ, fronts=0, model_processes=0, **UNHURRIED)


def test_sigterm_answers_what_was_accepted(model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor):
    with multi_model_server(tmp_path) as server:
        assert load(server, "a", model_dir).status_code == 200
        with accepted(server, pool) as (waiting, _, _):
            with stopped(http := http_side(server.process.pid)):  # else the port closes when pings have failed for a second
                began = time.monotonic()
                server.process.terminate()
                until(lambda: server.ping() == 503, "/ping says 503")
                until(lambda: was_sent(http, signal.SIGTERM), "the port is to be closed")
                assert time.monotonic() - began >= supervisor._LAME_DUCK_SECONDS
            assert not waiting.done()
        assert waiting.result().json()["predictions"][0]["class"]
        assert server.stop() == 0


def test_sigterm_ends_the_models_too(model_dir: Path, tmp_path: Path):
    with multi_model_server(tmp_path) as server:
        assert load(server, "a", model_dir).status_code == 200
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop(signal.SIGTERM) == 0
        until(lambda: not any(child.is_running() for child in children), "every process is gone")
