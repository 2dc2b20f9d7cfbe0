"""An answer of AWS that arrived cut short is asked for again, and never believed.

botocore does not compare what arrived with Content-Length, and where what it has is no JSON it goes on with an empty answer:
"no such endpoint" where the network broke (seen with botocore 1.44: `parsers.py`, `_parse_body_as_json`).
"""

from typing import Any

from botocore.exceptions import IncompleteReadError

_ATTEMPTS = 4


def insist(client: Any) -> None:
    """Make `client` try again, then raise botocore's IncompleteReadError, where an answer is shorter than it said."""
    client.meta.events.register("needs-retry", _again_if_cut)


def _again_if_cut(response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
    """Seconds to wait before the next attempt; None where nothing is missing."""
    if response is None or operation.has_streaming_output or operation.http.get("method") == "HEAD":
        return None  # nothing arrived; botocore counts streams itself; HEAD tells a length and sends nothing
    http = response[0]
    announced = http.headers.get("Content-Length", "")
    if not announced.isdigit() or "Content-Encoding" in http.headers or len(http.content) >= int(announced):
        return None
    if attempts < _ATTEMPTS:
        return 0.2 * float(2**attempts)
    raise IncompleteReadError(actual_bytes=len(http.content), expected_bytes=int(announced))
