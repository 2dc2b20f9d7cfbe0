"""I8 for a training job; a server's clock jumps in the soak (`serving`). The jumps are the C library's, not Python's alone."""

import subprocess
import sys

import pytest

from tests.faults import invariants, trees
from tests.faults.clock import MISSING, Clock, available
from tests.faults.invariants import hold
from tests.support import hosts
from tests.support.requirement import unavailable

DAY, HOUR = 86_400, 3_600
PROGRAM = """
import datetime, queue, multiprocessing, sys, time
first, began = time.time(), time.monotonic()
print("ready", flush=True)
sys.stdin.readline()
wall, moment = time.time() - first, datetime.datetime.now().timestamp() - first
try:
    multiprocessing.Queue().get(timeout=0.2)
except queue.Empty:
    pass
print(round(wall), round(moment), time.monotonic() - began < 60, flush=True)
"""


@pytest.fixture
def clock(tmp_path):
    if not available():
        unavailable(MISSING)
    return Clock(tmp_path / "clock")


def test_the_clock_of_a_process_jumps_and_its_waits_do_not(clock):
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**clock.environ, "PATH": "/usr/bin:/bin"}
    ) as process:
        assert process.stdout.readline() == "ready\n"
        clock.jump(DAY)
        told, _ = process.communicate("go\n", timeout=120)
    wall, moment, patient = told.split()
    assert abs(int(wall) - DAY) < 100
    assert abs(int(moment) - DAY) < 100
    assert patient == "True"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_job_learns_and_saves_the_same_while_its_clock_jumps(clock, tmp_path):
    """Ahead by a day before the first epoch, back by more than that, ahead again: each between two epochs."""
    hosts.few(trees.ROOT / "examples" / "photos", tmp_path / "photos", {"train": 6, "valid": 3, "test": 2})
    calm, hectic = (trees.Host(tmp_path / "photos", tmp_path / name) for name in ("calm", "hectic"))
    serials = []
    for host, environ, jumps in ((calm, {}, ()), (hectic, clock.environ, (DAY, -DAY - HOUR, 7 * DAY))):
        started = host.start({"checkpoint_every_seconds": 600}, **environ)
        try:
            for number, seconds in enumerate(jumps):
                started.reach(number, 0.0)
                clock.jump(seconds)
            assert started.end() == 0, started.tail()
        finally:
            started.kill()
        host.check()
        hold(not host.failure.exists(), "I2", "a failure file beside a result")
        rows = started.logged("epoch")
        assert all(row["train_seconds"] >= 0 and row["images_per_second"] > 0 for row in rows)
        serials.append((len(rows), invariants.newest(host.checkpoints).split("-")[1]))
    assert invariants.weights(calm.model_dir) == invariants.weights(hectic.model_dir)
    assert serials[0] == serials[1], "as many checkpoints as without a jump"
