"""The conformance tool: nothing found on our images, and true findings on an image of the classic Flask sample's shape and on
one that does everything wrong.
"""

import io
import json
from pathlib import Path

import pytest

from tests.conformance import image, serving, training
from tests.conformance.report import Report
from tests.support import engine as docker_engine

HERE = Path(__file__).parent
QUICK = {"architecture": "squeezenet1_1", "pretrained": "none", "head_epochs": 0, "epochs": 1, "engines": "none"}


def found(report, verdict="fail"):
    return {line.rule: line.why for line in report.found(verdict)}


def rule_of(report, words, verdict):
    """The reason of the one line whose rule has these words."""
    (why,) = [why for rule, why in found(report, verdict).items() if words in rule]
    return why


def test_our_training_image_keeps_every_rule(engine, train_image, channels):
    report = Report(stream=io.StringIO())
    image.check(engine, train_image, report)
    target = training.Training(
        engine, train_image, channels, QUICK, long={"epochs": 100_000}, running_words='"event": "epoch"', job_seconds=300
    )
    training.check(target, report)
    assert {verdict: found(report, verdict) for verdict in ("fail", "advice", "not tried")} == {
        "fail": {}, "advice": {}, "not tried": {},
    }  # fmt: skip
    assert len(report.lines) > 10


def test_our_serving_image_keeps_every_rule(engine, serve_image, model_dir, photo):
    report = Report(stream=io.StringIO())
    image.check(engine, serve_image, report)
    serving.check(serving.Serving(engine, serve_image, model_dir, photo, "image/jpeg", start_seconds=180), report)
    assert {verdict: found(report, verdict) for verdict in ("fail", "advice", "not tried")} == {
        "fail": {}, "advice": {}, "not tried": {},
    }  # fmt: skip
    assert len(report.lines) > 18


@pytest.fixture(scope="module")
def classic(engine, serve_image):
    """On our serving image for its Python, Flask and gunicorn."""
    with docker_engine.built(engine, HERE / "classic_byoc", serve_image) as tag:
        yield tag


@pytest.fixture(scope="module")
def wrong(engine, serve_image):
    with docker_engine.built(engine, HERE / "wrong_byoc", serve_image) as tag:
        yield tag


def test_what_it_finds_in_the_classic_training_program(engine, classic, channels):
    report = Report(stream=io.StringIO())
    target = training.Training(
        engine, classic, channels, {"epochs": 2}, long={"epochs": 100_000}, running_words="epoch 1", stop_seconds=5
    )
    training.check(target, report)
    assert "was killed" in rule_of(report, "SIGTERM", "fail")  # Python as PID 1 ignores it
    assert "model.json" in rule_of(report, "two hosts", "fail")
    assert "exit code 255" in rule_of(report, "JSON inside strings", "advice")
    assert rule_of(report, "left a model", "pass") == ""


def test_what_it_finds_in_the_classic_server(engine, classic, photo, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(["brick", "grass"]))
    report = Report(stream=io.StringIO())
    serving.check(serving.Serving(engine, classic, tmp_path, photo, "image/jpeg", start_seconds=60), report)
    assert "500" in rule_of(report, "4xx", "advice")
    assert "404" in rule_of(report, "/metrics", "advice")
    assert "of 4 requests were not answered" in rule_of(report, "before SIGTERM", "advice")  # its PID 1 does not wait
    assert found(report) == {}


def test_an_image_that_does_everything_wrong_breaks_each_rule_of_images(engine, wrong):
    report = Report(stream=io.StringIO())
    image.check(engine, wrong, report)
    assert "a shell is PID 1" in rule_of(report, "exec form", "fail")
    assert "USER is nobody" in rule_of(report, "runs as root", "fail")
    assert "/opt/ml/model/baked.txt" in rule_of(report, "/opt/ml", "fail")
    assert "/usr/lib/libcuda.so.1" in rule_of(report, "NVIDIA driver", "fail")


def test_where_nothing_completes_nothing_more_is_claimed(engine, wrong, channels, photo, tmp_path):
    """Of its trainer, which always ends with exit code 1, and its server, which never starts."""
    report = Report(stream=io.StringIO())
    training.check(training.Training(engine, wrong, channels, {"epochs": 1}, running_words="epoch", job_seconds=60), report)
    assert list(found(report)) == [report.lines[0].rule, next(rule for rule in found(report) if "failure" in rule)]
    assert "exit code 1" in report.lines[0].why
    assert found(report, "advice") == {}
    assert rule_of(report, "cannot train", "pass") == ""
    tried = len(report.lines)
    serving.check(serving.Serving(engine, wrong, tmp_path, photo, "image/jpeg", start_seconds=60), report)
    (start, *others) = report.lines[tried:]
    assert start.verdict == "fail"
    assert start.why.startswith("ended ")  # before its port was published, or before it was ready
    assert len(others) > 15
    assert {line.verdict for line in others} == {"not tried"}
