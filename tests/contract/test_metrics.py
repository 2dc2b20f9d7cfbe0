"""The agreement between training's log and `deploy`: what core.logs prints, SageMaker's search with our regexes finds."""

import re
import subprocess
import sys

import pytest

from containers.core import metrics

_PROGRAM = """
from containers.core import logs, metrics
logs.configure(rank=0, host="algo-1", job="a \\"quoted\\" name")
log = logs.get("containers.train.trainer")
log.info("starting", extra={"note": "valid_loss: 9 and best_valid_loss=9", "class_names": ["valid_loss", "loss"]})
log.info(metrics.EPOCH_EVENT, extra={"epoch": 7} | {m.field: 0.25 + i for i, m in enumerate(metrics.METRICS)})
log.info(metrics.EPOCH_EVENT, extra={"epoch": 8} | {m.field: float("nan") for m in metrics.METRICS})
"""


@pytest.fixture(scope="module")
def log() -> str:
    return subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("definition", metrics.sagemaker_definitions(), ids=lambda d: d["Name"])
def test_each_definition_finds_exactly_its_number_in_the_log_of_a_process(log, definition):
    index = [m.name for m in metrics.METRICS].index(definition["Name"])
    assert [float(found) for found in re.findall(definition["Regex"], log)] == [0.25 + index]
