import json
import math
from dataclasses import asdict

import pytest

from benchmarks.serving import claims
from benchmarks.serving.measure import Reading
from tests.support.readings import reading


def test_ratios_are_of_medians_and_against_the_best_peer(readings):
    rows = {
        row.claim: row for row in claims.rows(readings, {"openvino-fp32": [{"images_per_second": 32.0, "latency_ms": 9.5}]})
    }
    documented = rows["openvino-fp32 over the best peer with eager, documented"]
    assert documented.value == pytest.approx(31 / 12)
    assert documented.verdict() == "goal"
    assert documented.verdict(disturbed=True) == "does not count"
    assert documented.detail.startswith("litserve documented")
    assert rows["openvino-fp32 over the best peer with eager, tuned"].value == pytest.approx(31 / 16)
    assert rows["openvino-fp32 over the in-process limit"].value == pytest.approx(31 / 32)
    assert rows["eager over the best peer with eager, documented or tuned"].verdict() == "floor"
    assert rows["idle server: latency over bare"].verdict() == "goal"
    assert rows["memory of all processes (PSS), over the lightest peer"].value == pytest.approx(400 / 1200)
    assert rows["memory of all processes (PSS), over the lightest peer"].verdict(disturbed=True) == "goal"


def test_beside_the_ratio_to_peers_with_our_engine_stands_what_no_server_could_exceed(readings):
    readings += [reading("byoc tuned openvino-fp32", 25, peer="byoc", engine="openvino-fp32")]
    limits = {"openvino-fp32": [{"images_per_second": rate, "latency_ms": 9.5} for rate in (31.0, 32.0, 40.0)]}
    rows = {row.claim: row for row in claims.rows(readings, limits)}
    same = rows["openvino-fp32 over the peers given the same engine"]
    assert same.value == pytest.approx(31 / 25)
    assert same.detail == "byoc tuned openvino-fp32 25.0/s; ours 31.0/s; the bare loop would reach 1.28"


def test_what_was_not_measured_is_said(readings):
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert math.isnan(rows["openvino-int8 over the in-process limit"].value)
    assert rows["openvino-int8 over the in-process limit"].verdict() == "not measured"


def test_a_peer_that_answered_nothing_is_no_peer(readings):
    readings += [reading("bentoml documented", 0, peer="bentoml")]
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert rows["openvino-fp32 over the best peer with eager, documented"].value == pytest.approx(31 / 12)
    silent = claims.rows([reading("kennel eager", 0), reading("byoc documented", 0, peer="byoc")], {})
    assert {row.verdict() for row in silent} <= {"not measured", "missed", "goal", "floor"}


def test_a_claim_counts_only_where_its_own_pair_agrees(readings):
    claim = "openvino-fp32 over the best peer with eager, documented"
    assert {row.claim: row for row in claims.rows(readings, {})}[claim].a_a == pytest.approx(31 / 30 - 1)
    readings += [reading("kennel openvino-fp32 (A')", rate, engine="openvino-fp32", pss_mb=405) for rate in (20, 21)]
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert rows[claim].verdict() == "does not count"
    assert rows["eager over the best peer with eager, documented or tuned"].verdict() == "floor"


def test_a_disturbed_reading_spoils_the_claims_that_rest_on_it_and_no_other(readings):
    next(r for r in readings if r.side == "litserve documented").foreign = 0.2
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert rows["openvino-fp32 over the best peer with eager, documented"].verdict() == "does not count"
    assert rows["openvino-fp32 over the best peer with eager, tuned"].verdict() == "goal"


def test_a_limit_that_does_not_repeat_does_not_count(readings):
    limits = {"openvino-fp32": [{"images_per_second": rate, "latency_ms": 9.5} for rate in (30.0, 34.0)]}
    rows = {row.claim: row for row in claims.rows(readings, limits)}
    assert rows["openvino-fp32 over the in-process limit"].value == pytest.approx(31 / 32)
    assert rows["openvino-fp32 over the in-process limit"].verdict() == "does not count"
    alone = [reading for reading in readings if not reading.side.endswith("(A')")]
    rows = {row.claim: row for row in claims.rows(alone, limits)}
    assert rows["openvino-fp32 over the in-process limit"].verdict() == "does not count"


def test_disturbed_rounds_are_left_out_where_there_are_others(readings):
    readings += [reading("litserve documented", 99, peer="litserve", foreign=0.5)]
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert rows["openvino-fp32 over the best peer with eager, documented"].value == pytest.approx(31 / 12)
    assert rows["openvino-fp32 over the best peer with eager, documented"].verdict() == "goal"


def test_a_round_without_an_answer_is_left_out_where_there_are_others(readings):
    readings += [reading("litserve documented", 0, peer="litserve")]
    rows = {row.claim: row for row in claims.rows(readings, {})}
    assert rows["openvino-fp32 over the best peer with eager, documented"].value == pytest.approx(31 / 12)


def test_a_reading_survives_json(readings):
    assert [Reading.from_json(json.loads(json.dumps(asdict(each)))) for each in readings] == readings
