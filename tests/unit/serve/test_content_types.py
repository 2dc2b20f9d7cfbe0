"""The pure half of the media types; what a caller sees of them is in tests/contract/test_serving.py."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import MIMEAccept

from containers.serve import content_types
from containers.serve.content_types import Body, Labels, choose_writer, kind_of
from containers.serve.errors import BadRequest, NotAcceptable, RequestError

LABELS = Labels(("a", "100 %s", 'c"ß'), 2, {"architecture": "x", "id": "y"})


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(content_types.READERS)), st.binary(max_size=200), st.text(max_size=20))
def test_no_body_whatever_makes_a_reader_fail_in_another_way_than_it_says(name: str, data: bytes, boundary: str):
    kind, _ = kind_of(name)
    try:
        items = kind.read(Body(data, {"boundary": boundary}, 4))
    except RequestError:
        return
    assert items
    assert all(isinstance(item, bytes | RequestError) for item in items)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_understood_or_refused(document: object):
    kind, _ = kind_of("application/json")
    with pytest.raises(BadRequest):
        kind.read(Body(json.dumps(document).encode(), {}, 4))


def test_the_prediction_names_the_best_first_and_every_class():
    described = json.loads(LABELS.describe(np.array([0.2, 0.1, 0.7], np.float32)))
    assert described["class"] == 'c"ß'
    assert described["top"] == [{"class": 'c"ß', "probability": 0.7}, {"class": "a", "probability": 0.2}]
    assert described["probabilities"] == {"a": 0.2, "100 %s": 0.1, 'c"ß': 0.7}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.text(), st.floats(0, 1, width=32)), min_size=1, max_size=8, unique_by=lambda pair: pair[0]))
def test_an_answer_is_json_with_the_probabilities_to_six_digits(pairs: list[tuple[str, float]]):
    labels = Labels(tuple(name for name, _ in pairs), 3, {"id": "y"})
    answer = np.array([value for _, value in pairs], np.float32)
    lines = content_types.WRITERS[content_types.JSON_LINES]([answer, BadRequest("bad")], labels).splitlines()
    document = json.loads(content_types.WRITERS[content_types.JSON]([answer, BadRequest("bad")], labels))
    assert document == {"predictions": [json.loads(line) for line in lines], "model": {"id": "y"}}
    assert document["predictions"][0]["probabilities"] == {name: round(value, 6) for name, value in pairs}
    assert document["predictions"][1] == {"error": {"kind": "BadRequest", "message": "bad"}}


def test_an_error_stays_below_what_sagemaker_passes_on():
    text = content_types.WRITERS[content_types.JSON]([BadRequest("x" * 5000)], LABELS)
    assert len(text) < 2048


def test_without_a_wish_the_answer_is_of_the_request_s_kind():
    assert choose_writer(MIMEAccept([]), kind_of("application/jsonlines")[0]) == "application/jsonlines"
    assert choose_writer(MIMEAccept([("*/*", 1)]), kind_of("application/jsonlines")[0]) == "application/jsonlines"
    assert choose_writer(MIMEAccept([("text/*", 1)]), kind_of("image/png")[0]) == "text/csv"
    with pytest.raises(NotAcceptable):
        choose_writer(MIMEAccept([("application/json", 0)]), kind_of("image/png")[0])
