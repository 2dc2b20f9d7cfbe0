"""containers/core/metrics.py: names within SageMaker's limits, each regex finds its own field and no other."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.core import metrics


def test_definitions_stay_within_sagemakers_limits():
    definitions = metrics.sagemaker_definitions()
    assert 0 < len(definitions) <= 40
    assert all(set(d) == {"Name", "Regex"} and len(d["Name"]) <= 255 and len(d["Regex"]) <= 500 for d in definitions)
    assert all(re.compile(d["Regex"]).groups == 1 for d in definitions)


def test_names_and_fields_are_unique_and_goals_are_the_tuners():
    assert len({m.name for m in metrics.METRICS}) == len({m.field for m in metrics.METRICS}) == len(metrics.METRICS)
    assert {m.goal for m in metrics.METRICS} == {None, "Minimize", "Maximize"}
    assert all(m.meaning for m in metrics.METRICS)


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda m: m.field)
def test_a_regex_finds_its_own_field_in_a_line_that_holds_all(metric):
    line = json.dumps({m.field: index + 0.5 for index, m in enumerate(metrics.METRICS)})
    assert re.findall(metric.regex, line) == [str(metrics.METRICS.index(metric) + 0.5)]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18))
def test_every_number_json_can_write_is_read_back(number):
    metric = metrics.METRICS[0]
    (found,) = re.findall(metric.regex, json.dumps({metric.field: number, "next": 7}))
    assert float(found) == float(number)


@pytest.mark.parametrize("value", ["null", '"0.5"', "NaN", "Infinity"])
def test_what_is_no_number_is_not_found(value):
    metric = metrics.METRICS[0]
    assert not re.search(metric.regex, f'{{"{metric.field}": {value}}}')
