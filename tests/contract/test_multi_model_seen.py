"""What a multi-model server tells of its models, in numbers and in the log."""

from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from containers.serve import child
from tests.support.multi_model import Models
from tests.support.server import PATIENCE, until

pytestmark = pytest.mark.slow


def sums(models: Models) -> dict[tuple[str, str | None, str | None], float]:
    """Counted so far, by name, label model and route; of a text in which every family is declared once."""
    text = requests.get(f"{models.server.url}/metrics", timeout=PATIENCE).text
    declared = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, s.labels.get("model"), s.labels.get("route")): s.value for s in samples if s.labels.get("status") != "404"}


def test_metrics_tell_what_each_model_has_done(models, model_dir):
    for name in ("a", 'b"\\'):
        assert models.load(name, model_dir).status_code == 200
    for _ in range(3):
        assert models.invoke("a").status_code == 200
    found = sums(models)
    for name in ("kennel_photos_total", "kennel_batch_photos_sum", "kennel_decode_seconds_count", "kennel_wait_seconds_count"):
        assert found[name, "a", None] == 3
        assert not found.get((name, None, None))
    assert found["kennel_batch_photos_sum", 'b"\\', None] == 0
    assert found["kennel_requests_total", "a", "/invocations"] == 3
    assert found["kennel_models_loaded", None, None] == 2
    for name in ("a", "b%22%5C"):
        assert models.unload(name).status_code == 200
    assert {model for _, model, _ in sums(models)} == {None}


def test_one_id_and_the_model_s_name_are_in_every_line_of_an_invocation_and_in_its_answer(models, model_dir):
    assert models.load("dogs", model_dir).status_code == 200
    for sent in ({}, {"X-Amzn-SageMaker-Inference-Id": "id-7"}):
        refused = models.invoke("dogs", b"no photo", {"Content-Type": "image/jpeg", **sent})
        assert refused.status_code == 400
        identity = refused.headers["X-Request-Id"]
        assert refused.json()["error"]["request_id"] == identity
        assert identity == sent.get("X-Amzn-SageMaker-Inference-Id", identity)
        lines = [line for line in models.server.events("request") if line["request_id"] == identity]
        assert {line["route"]: line["model_name"] for line in lines} == {
            "/models/<path:name>/invoke": "dogs",
            "/invocations": "dogs",
        }
    (loaded,) = [line for line in models.server.events("model loaded") if line.get("model_name") == "dogs"]
    assert loaded["engine"] == "scripted"


def test_a_killed_model_leaves_no_counters_behind(models, model_dir):
    assert models.load("a", model_dir).status_code == 200
    victim = models.supervisor(model_dir)
    folder = Path(victim.environ()[child.METRICS])
    assert list(folder.iterdir())
    victim.kill()
    until(lambda: models.request("GET", "/a").status_code == 404, "its death was noticed")
    assert not folder.exists()
    assert folder.parent.exists()
