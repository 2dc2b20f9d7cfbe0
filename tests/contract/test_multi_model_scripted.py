"""What the loads, the unloads and the invocations of a multi-model server do to each other, and what it makes of odd calls."""

import os
import shutil
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from containers.core import host
from tests.support.multi_model import JPEG
from tests.support.server import PATIENCE, until
from tests.support.slow_model import stopped


@pytest.mark.slow
def test_what_a_model_that_loads_will_need_is_not_given_to_another(models, model_dir, tmp_path, pool):
    large = Path(shutil.copytree(model_dir, tmp_path / "large"))
    (large / "more.safetensors").touch()  # not in the manifest: nobody reads it
    # Three times as much is needed: it fits, and not twice, though others take a quarter of the memory or give it back.
    os.truncate(large / "more.safetensors", host.free_memory() * 7 // 30)
    first = models.loading(pool, "a", large)
    refused = models.load("b", large)
    assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
    models.play()
    assert first.result().status_code == 200
    assert models.load("b", large).status_code == 200


@pytest.mark.slow
def test_a_model_that_still_loads_is_not_loaded_and_its_name_is_taken(models, model_dir, pool):
    first = models.loading(pool, "a", model_dir)
    again = models.load("a", model_dir)
    assert (again.status_code, again.json()["error"]["kind"]) == (409, "AlreadyLoaded")
    assert models.request("GET", "/a").status_code == 404
    assert models.names == []
    early = models.invoke("a")
    assert (early.status_code, early.json()["error"]["kind"], early.headers["Retry-After"]) == (503, "NotReady", "5")
    models.play()
    assert first.result().status_code == 200
    assert models.names == ["a"]
    assert models.invoke("a").status_code == 200


@pytest.mark.slow
def test_a_model_may_be_unloaded_while_it_loads(models, model_dir, pool):
    first = models.loading(pool, "a", model_dir)
    assert models.unload("a").status_code == 200
    told = first.result()
    assert (told.status_code, told.json()["error"]["message"]) == (500, "the model was unloaded while it loaded")
    assert models.server.processes("kennel-model") == []
    models.play()
    assert models.load("a", model_dir).status_code == 200


@pytest.mark.slow
def test_while_a_model_is_unloaded_what_it_accepted_is_answered_and_it_is_not_loaded_for_others(models, model_dir, pool):
    assert models.load("a", model_dir).status_code == 200
    (process,) = models.server.processes("kennel-model")
    body = memoryview(JPEG.ljust(100_000, b"\0"))
    head = b"POST /models/a/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body)
    with stopped(process), socket.create_connection(("127.0.0.1", models.server.port), timeout=PATIENCE) as slow:
        slow.sendall(head)
        sent = 0

        def on(goes: bool) -> bool:
            """Send a byte: a client that sends nothing for ten seconds loses its turn."""
            nonlocal sent
            slow.sendall(body[sent : sent + 1])
            sent += 1
            return goes

        accepted = pool.submit(models.invoke, "a")
        inner = f"http://127.0.0.1:{models.port()}/metrics"
        waits = "kennel_photos_submitted 1.0"
        until(
            lambda: on(accepted.done() or waits in requests.get(inner, timeout=PATIENCE).text), "the photo waits for the model"
        )
        assert not accepted.done(), accepted.result().text
        unloading = pool.submit(models.unload, "a")
        until(lambda: on(models.names == []), "it is being unloaded")
        slow.sendall(body[sent:])
        assert slow.recv(4096).split()[1] == b"404"
        assert models.request("GET", "/a").status_code == 404
        assert models.invoke("a").status_code == 404
        assert models.load("a", model_dir).status_code == 409  # its memory is not free yet
        assert not unloading.done()
    assert accepted.result().status_code == 200
    assert unloading.result().status_code == 200


@pytest.mark.slow
def test_an_invocation_that_does_not_fit_into_the_device_is_507_and_the_model_stays(models, model_dir):
    """SageMaker's answer to 507 is to unload a model and to try again."""
    assert models.load("a", model_dir).status_code == 200
    models.play(room=0)
    refused = models.invoke("a")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (507, "OutOfMemory")
    models.play()
    assert models.invoke("a").status_code == 200


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
def test_a_load_that_makes_no_sense_is_the_caller_s_400(models, document):
    refused = models.request("POST", data=document)
    assert (refused.status_code, refused.json()["error"]["kind"]) == (400, "BadRequest"), refused.text


@pytest.mark.slow
def test_a_list_in_pages_passes_over_no_model_that_stays_loaded(models, model_dir):
    for name in "abcd":
        assert models.load(name, model_dir).status_code == 200
    first = models.request("GET", params={"limit": 2}).json()
    models.unload("a")
    second = models.request("GET", params={"limit": 1, "next_page_token": first["nextPageToken"]}).json()
    models.unload("c")
    assert models.load("a", model_dir).status_code == 200  # now the last
    third = models.request("GET", params={"limit": 9, "next_page_token": second["nextPageToken"]}).json()
    assert [[model["modelName"] for model in page["models"]] for page in (first, second, third)] == [
        ["a", "b"],
        ["c"],
        ["d", "a"],
    ]
    assert "nextPageToken" not in third


@pytest.mark.slow
def test_an_error_that_names_a_model_is_short_however_long_the_name_is_in_json(models, model_dir):
    name = "ü" * 600
    assert models.load(name, model_dir).status_code == 200
    again = models.load(name, model_dir)
    assert (again.status_code, again.json()["error"]["kind"]) == (409, "AlreadyLoaded")
    assert len(again.text) < 2048


@pytest.mark.slow
def test_models_come_and_go_while_others_are_asked(models, model_dir):
    """Four threads load, ask and unload a model each, twice; two more ask whatever there is."""
    ended, seen = threading.Event(), Counter()

    def owner(name: str) -> None:
        for _ in range(2):
            seen["load", models.load(name, model_dir).status_code] += 1
            for _ in range(5):
                seen["own", models.invoke(name).status_code] += 1
            seen["unload", models.unload(name).status_code] += 1

    def stranger() -> None:
        while not ended.is_set():
            for name in "abcd":
                seen["any", models.invoke(name).status_code] += 1
            assert len(models.names) <= 4
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
    assert models.names == []
    assert models.server.processes("kennel-model") == []
