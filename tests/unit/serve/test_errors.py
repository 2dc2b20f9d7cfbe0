import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.serve import exchange
from containers.serve.errors import described

ODD = '"' * 64  # of an id as much as is kept, and each is escaped


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(), st.integers(1, 2000))
def test_an_error_s_json_is_under_2048_characters_whatever_its_message_is_made_of(text: str, times: int):
    body = exchange.error_body("UnsupportedMediaType", text * times, ODD)
    assert len(body) < 2048
    assert (text * times).startswith(json.loads(body)["error"]["message"])


@pytest.mark.parametrize(("character", "kept"), [("x", 1000), ('"', 850), ("\0", 283), ("ü", 283), ("🐕", 141)])
def test_a_message_is_cut_at_a_whole_character_by_what_its_json_takes(character: str, kept: int):
    assert described("BadRequest", character * 3000)["message"] == character * kept
    assert described("BadRequest", character * 100)["message"] == character * 100
