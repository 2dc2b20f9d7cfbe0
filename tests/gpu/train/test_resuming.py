"""A rank on the GPU that is disturbed and started again ends bitwise as one that was not."""

import signal

import pytest

from containers.core.errors import ConfigError
from containers.train import machine
from tests.gpu.train.forked import Rank
from tests.gpu.train.started import learned, newest, wait_at, weights
from tests.support import training

STEPS, BATCH = 5, 8
"""An epoch: 40 photos."""
MIDDLE = STEPS + STEPS + 2
"""A step in the middle of the second epoch of phase 2, after one of the head."""
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@pytest.mark.parametrize(("precision", "compiled"), [*((each, False) for each in PRECISIONS), ("bf16", True)])
def test_stopped_or_killed_in_the_middle_of_an_epoch(tmp_path, index, gpu, precision, compiled):
    if compiled:
        try:
            machine.check_compiler(1)
        except ConfigError as lacking:
            pytest.skip(str(lacking))

    def job(name):
        settings = {"architecture": "resnet18", "head_epochs": 1, "epochs": 3, "batch_size": BATCH, "precision": precision}
        settings |= {"torch_compile": compiled}
        made = training.make_job(tmp_path / name, index, **settings).model_copy(update={"device": gpu.type})
        made.write()
        return made

    plain, stopped, killed = job("plain"), job("stopped"), job("killed")
    straight, *disturbed = Rank(plain), Rank(stopped, wait_at(MIDDLE)), Rank(killed, wait_at(MIDDLE))
    for rank, number, code in zip(disturbed, (signal.SIGTERM, signal.SIGKILL), (75, -signal.SIGKILL), strict=True):
        rank.wait_for("waits").signal(number).end(expect=code)
    straight.end()
    assert [row["phase"] for row in straight.logged("epoch")] == ["head", "all", "all", "all"]
    assert [event["photos"] for event in straight.logged("compiled")] == [BATCH] * compiled
    assert straight.logged("computing")[0]["precision"] == PRECISIONS[precision]
    progress = newest(stopped.paths.checkpoint_dir)["progress"]
    assert (progress["step"], progress["epoch"], progress["samples"]) == (MIDDLE + 1, 1, 3 * BATCH)
    assert newest(killed.paths.checkpoint_dir)["progress"]["samples"] == 0  # of the epoch before
    for rank in [Rank(stopped), Rank(killed)]:
        assert rank.end().logged("resumed")
    expected = learned(plain)
    assert (expected["scaler"].get("scale", 1) > 1) == (precision == "fp16")
    for each in (stopped, killed):
        assert training.same(learned(each), expected)
        assert weights(each) == weights(plain)
