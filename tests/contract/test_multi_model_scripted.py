"""A real multi-model server whose models' engine does what a test says: loads that take long, models that hang or die."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from containers.core import host
from tests.support.artifacts import photo
from tests.support.scripted import Scripted, scripted
from tests.support.server import until

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
