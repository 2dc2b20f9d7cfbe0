"""What one model of a multi-model server leaves to the others, and how long an invocation may take there in all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.multi_model import Models
from tests.support.scripted import scripted
from tests.support.server import PATIENCE, UNHURRIED, until
from tests.support.slow_model import SLOTS, stopped

MULTI_MODEL = {"SAGEMAKER_MULTI_MODEL": "true"}


@pytest.mark.slow
def test_a_model_that_hangs_leaves_its_neighbours_a_place(model_dir, tmp_path, pool: ThreadPoolExecutor):
    settings = {"fronts": 0, "model_processes": 0, "slots": SLOTS, **UNHURRIED}
    with scripted(Path("/nowhere"), tmp_path, MULTI_MODEL, **settings) as engine:
        models = Models(engine)
        assert models.load("hangs", model_dir).status_code == 200
        inner = f"http://127.0.0.1:{models.port()}/metrics"
        (process,) = models.server.processes("kennel-model")
        with stopped(process):
            accepted = [pool.submit(models.invoke, "hangs") for _ in range(SLOTS)]
            waits = f"kennel_photos_submitted {SLOTS}.0"
            until(lambda: waits in requests.get(inner, timeout=PATIENCE).text, "as many wait as it takes")
            assert models.load("idle", model_dir).status_code == 200
            for _ in range(2):
                assert models.invoke("idle").status_code == 200
                refused = models.invoke("hangs")
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
                assert refused.json()["error"]["message"].startswith("this model has as many requests under way")
        assert [future.result().status_code for future in accepted] == [200] * SLOTS
        assert models.invoke("hangs").status_code == 200
