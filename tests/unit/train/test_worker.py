"""The end of a rank's process."""

import subprocess
import sys
from pathlib import Path

import pytest

from containers.train import worker

ROOT = Path(worker.__file__).parents[2]
PROGRAM = """
import sys
from torch.utils.data import DataLoader
from containers.train import data, worker
loader = DataLoader(range(4), num_workers=1, persistent_workers=True, worker_init_fn=data._ignore_stop_signals)
batches = iter(loader)
next(batches)
cycle = [batches]
cycle.append(cycle)  # alive until the interpreter is gone
try:
    if "fail" in sys.argv:
        raise SystemExit(7)
finally:
    worker.end_loaders()  # without it: the run waits for ever
"""


@pytest.mark.parametrize(("words", "code"), [([], 0), (["fail"], 7)])
def test_a_loader_that_is_still_there_does_not_keep_a_rank_from_ending(words, code):
    assert subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=ROOT, timeout=120).returncode == code
