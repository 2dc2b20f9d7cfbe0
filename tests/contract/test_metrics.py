"""The agreement between training's log and `deploy`: what core.logs prints, SageMaker's search with our regexes finds."""

import re
import subprocess
import sys

import pytest
import torch

from containers.core import manifest, metrics
from tests.support.training import Workers, make_index, make_job, train

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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Workers:
    """Two epochs, a test split, a model."""
    torch.set_num_threads(1)  # ranks are forked
    root = tmp_path_factory.mktemp("run")
    return train(make_job(root / "job", make_index(root / "photos"), head_epochs=1, epochs=1))


@pytest.mark.parametrize("definition", metrics.sagemaker_definitions(), ids=lambda d: d["Name"])
def test_the_whole_log_of_a_run_has_one_number_per_epoch_and_last_those_of_the_model_that_is_kept(run, definition):
    field = next(metric.field for metric in metrics.METRICS if metric.name == definition["Name"])
    found = [float(number) for number in re.findall(definition["Regex"], run.text())]
    epochs = [line[field] for line in run.lines() if line["event"] == metrics.EPOCH_EVENT and field in line]
    kept = manifest.read(run.logs[0].parents[2] / "model").metrics
    assert found == [*epochs, *([kept[field]] if field in kept else [])]
    assert len(epochs) == (0 if field.startswith("test_") else 2)
    assert (field in kept) == field.startswith(("test_", "valid_"))
