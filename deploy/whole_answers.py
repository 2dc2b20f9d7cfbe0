"""An answer of AWS that arrived cut short is never believed; what only asks is asked again.

botocore does not compare what arrived with Content-Length, and where what it has is no JSON it goes on with an empty answer:
"no such endpoint" where the network broke (seen with botocore 1.44: `parsers.py`, `_parse_body_as_json`). A cut answer in XML
raises its ResponseParserError at once.
"""

from typing import Any

from botocore.exceptions import IncompleteReadError

_ATTEMPTS = 4
_ONLY_ASK = ("Describe", "Get", "List", "Search", "Simulate")
"""A call that may have changed something is not repeated: it would be told that its own work is somebody else's."""


def insist(client: Any) -> None:
    """Make `client` raise botocore's IncompleteReadError for an answer too short; if it only asked, after more attempts."""
    client.meta.events.register("needs-retry", _again_if_cut)


def _again_if_cut(response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
    """Seconds to wait before the next attempt; None where nothing is missing."""
    if response is None or operation.has_streaming_output or operation.http.get("method") == "HEAD":
        return None  # nothing arrived; botocore counts streams itself; HEAD tells a length and sends nothing
    http = response[0]
    announced = http.headers.get("Content-Length", "")
    if not announced.isdigit() or "Content-Encoding" in http.headers or len(http.content) >= int(announced):
        return None
    if attempts < _ATTEMPTS and operation.name.startswith(_ONLY_ASK):
        return 0.2 * float(2**attempts)
    raise IncompleteReadError(actual_bytes=len(http.content), expected_bytes=int(announced))
