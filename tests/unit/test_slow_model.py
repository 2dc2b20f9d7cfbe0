"""tests/support/slow_model.py, where what a test waits for will never come."""

from concurrent.futures import Future

import pytest
import requests

from tests.support.slow_model import in_flight_at


def test_who_waits_for_photos_hears_at_once_that_one_was_refused():
    answer = requests.Response()
    answer.status_code, answer._content = 503, b'{"error": {"kind": "Overloaded"}}'
    waits, refused = Future(), Future()
    refused.set_result(answer)
    with pytest.raises(AssertionError, match=r"answered before 2 photos waited: 503 .*Overloaded"):
        in_flight_at("http://nobody.invalid", 2, [waits, refused])
