"""A job on the GPU that is disturbed and started again ends bitwise as one that was not."""

import os
import signal
import time

import pytest

from tests.gpu.train.conftest import SECONDS
from tests.gpu.train.started import EXACT, STEPS, Job, wait_at
from tests.support.training import same

MIDDLE = STEPS + STEPS + 2
"""A step in the middle of the second epoch of phase 2, after one of the head."""


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def undisturbed(tmp_path_factory, data, gpu, request) -> Job:
    return Job(tmp_path_factory.mktemp("undisturbed"), data, gpu.type, **EXACT, precision=request.param).end()


def _again(tmp_path, data, gpu, precision):
    return Job(tmp_path, data, gpu.type, **EXACT, precision=precision)


def _precision(job: Job) -> str:
    return {"bfloat16": "bf16", "float16": "fp16"}[job.logged("computing")[0]["precision"]]


def _is_as(job: Job, undisturbed: Job) -> None:
    assert job.logged("resumed")
    assert same(job.learned, undisturbed.learned)
    assert job.weights == undisturbed.weights


def test_asked_to_stop_in_the_middle_of_an_epoch(tmp_path, data, gpu, undisturbed, record_property):
    precision = _precision(undisturbed)
    with Job(tmp_path, data, gpu.type, program=wait_at(MIDDLE), **EXACT, precision=precision) as job:
        job.wait_for('"waits"')
        asked = time.perf_counter()
        assert job.stop().wait() == 0, job.out
        record_property(SECONDS, round(time.perf_counter() - asked, 2))
    assert job.failure is None
    progress = job.newest["progress"]
    assert (progress["step"], progress["epoch"], progress["samples"]) == (MIDDLE + 1, 1, 3 * EXACT["batch_size"])
    assert (tmp_path / "model/manifest.json").exists()
    _is_as(_again(tmp_path, data, gpu, precision).end(), undisturbed)


def test_killed_in_the_middle_of_an_epoch(tmp_path, data, gpu, undisturbed):
    precision = _precision(undisturbed)
    with Job(tmp_path, data, gpu.type, program=wait_at(MIDDLE), **EXACT, precision=precision) as job:
        job.wait_for('"waits"')
        os.kill(job.logged("waits")[0]["pid"], signal.SIGKILL)
        assert job.wait() == 1, job.out
    assert "SIGKILL" in job.failure
    assert job.newest["progress"]["samples"] == 0  # of the epoch before
    _is_as(_again(tmp_path, data, gpu, precision).end(), undisturbed)


def test_the_scale_of_the_loss_is_gone_on_with(undisturbed):
    """And was not 1 all the time: fp16 begins at 65,536."""
    scaler = undisturbed.learned["scaler"]
    assert (scaler.get("scale", 0) > 1) == (_precision(undisturbed) == "fp16")
