"""The conformance tool: no failing line for our images, and true findings on an image of the classic Flask sample's shape."""

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance import image, serving, training
from tests.conformance.report import Report

CLASSIC = Path(__file__).parent / "classic_byoc"
QUICK = {"architecture": "squeezenet1_1", "pretrained": "none", "head_epochs": 0, "epochs": 1, "engines": "none"}


def failures(report):
    return {line.rule: line.why for line in report.failed()}


def test_our_training_image_keeps_every_rule(engine, train_image, channels):
    report = Report(stream=io.StringIO())
    image.check(engine, train_image, "train", report)
    target = training.Training(
        engine, train_image, channels, QUICK, long={"epochs": 100_000}, running_words='"event": "epoch"', job_seconds=300
    )
    training.check(target, report)
    assert failures(report) == {}
    assert len(report.lines) > 10


def test_our_serving_image_keeps_every_rule(engine, serve_image, model_dir, photo):
    report = Report(stream=io.StringIO())
    image.check(engine, serve_image, "serve", report)
    serving.check(serving.Serving(engine, serve_image, model_dir, photo, "image/jpeg", start_seconds=180), report)
    assert failures(report) == {}
    assert len(report.lines) > 18


@pytest.fixture(scope="module")
def classic(engine, serve_image):
    """An image of the classic sample's shape, on our serving image for its Flask and gunicorn."""
    tag = f"kennel-test-classic-byoc:{os.getpid()}"
    docker = next(path for path in ("/usr/bin/docker", shutil.which("docker") or "") if Path(path).exists())
    command = [docker, "build", "-q", "--build-arg", f"BASE={serve_image}", "-t", tag, str(CLASSIC)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"DOCKER_BUILDKIT": "1"})
    yield tag
    engine.images.remove(tag, force=True)


def test_what_it_finds_in_the_classic_training_program(engine, classic, channels):
    report = Report(stream=io.StringIO())
    target = training.Training(
        engine, classic, channels, {"epochs": 2}, long={"epochs": 100_000}, running_words="epoch 1", stop_seconds=5
    )
    training.check(target, report)
    found = failures(report)
    assert any("SIGTERM" in rule and "was killed" in why for rule, why in found.items())  # Python as PID 1 ignores it
    assert any("two hosts" in rule and "model.json" in why for rule, why in found.items())
    assert any("JSON inside strings" in rule for rule in found)
    passed = {line.rule for line in report.lines if line.verdict == "pass"}
    assert any("exit code 0 leaves a model" in rule for rule in passed)


def test_what_it_finds_in_the_classic_server(engine, classic, photo, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(["brick", "grass"]))
    report = Report(stream=io.StringIO())
    serving.check(serving.Serving(engine, classic, tmp_path, photo, "image/jpeg", start_seconds=60), report)
    found = failures(report)
    assert any("4xx" in rule and "500" in why for rule, why in found.items())
    assert any("/metrics" in rule and "404" in why for rule, why in found.items())
    assert not any("start-up window" in rule or "250 ms" in rule or "25 MB" in rule for rule in found)
