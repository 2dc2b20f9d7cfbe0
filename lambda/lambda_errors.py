"""What can go wrong with one invocation, and the HTTP answer it becomes. Part of the zip of `invoke_endpoint`."""

import json
import re
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)


class Refused(Exception):
    """An answer that is not 200; its message is for the caller.

    `again`: the model did not work on the request, so this function may try once more. `body`: the container's own JSON
    answer, sent on as it is. `detail`: for the log only (AWS's messages name accounts and roles).
    """

    def __init__(
        self, status: int, kind: str, message: str, *, again: bool = False, body: bytes | None = None, detail: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.again, self.body, self.detail = status, kind, again, body, detail

    def answer(self, request_id: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); the body has the form of the serving container's own errors."""
        headers = {"content-type": "application/json"} | ({"retry-after": "1"} if self.status in (429, 503) else {})
        described = {"kind": self.kind, "message": str(self)[:1000], "request_id": request_id}
        return self.status, headers, self.body or json.dumps({"error": described}).encode()


# The service refused these before the model worked on the request: trying again does not do the work twice.
_SERVICE_ERRORS = {
    "ThrottlingException": (429, "Throttled", "too many requests to the endpoint"),
    "ModelNotReadyException": (503, "NotReady", "the model is still being loaded"),
    "ServiceUnavailable": (503, "Unavailable", "the endpoint has no healthy instance right now"),
    "InternalFailure": (502, "BadGateway", "the endpoint's service failed"),
    "InternalDependencyException": (502, "BadGateway", "the endpoint's service failed"),
}


def translate(error: Exception) -> Refused:
    """What boto3 raised, as an answer. A model's own status and message are kept; AWS's stay in the log."""
    if isinstance(error, ReadTimeoutError):  # the model may be at work on it still: never again from here
        return Refused(504, "DeadlineExceeded", "the endpoint did not answer in time", detail=str(error))
    if isinstance(error, (ConnectTimeoutError, EndpointConnectionError, ConnectionClosedError)):
        return Refused(502, "BadGateway", "the endpoint's service cannot be reached", again=True, detail=str(error))
    if not isinstance(error, ClientError):
        return Refused(502, "BadGateway", "the endpoint cannot be called", detail=f"{type(error).__name__}: {error}")
    code, detail = error.response["Error"]["Code"], str(error)
    if code == "ModelError":
        return _model_error(error.response)
    if code in _SERVICE_ERRORS:
        status, kind, message = _SERVICE_ERRORS[code]
        return Refused(status, kind, message, again=True, detail=detail)
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 413 or "length less than" in detail:
        return Refused(413, "TooLarge", "the endpoint's service takes no body of this size", detail=detail)
    return Refused(502, "BadGateway", "the endpoint refused the call; this function's log has the reason", detail=detail)


def _model_error(response: dict[str, Any]) -> Refused:
    status = int(response.get("OriginalStatusCode") or 0)
    message = str(response.get("OriginalMessage") or response["Error"].get("Message", ""))
    if not 400 <= status <= 599:  # the container's answer never came: SageMaker's own 60 s, or a broken connection
        if re.search(r"time(d )?[- ]?out", message, re.IGNORECASE):
            return Refused(504, "DeadlineExceeded", "the model did not answer in time", detail=message)
        return Refused(502, "BadGateway", "the model's answer was lost", detail=message)
    try:
        body = message.encode() if isinstance(json.loads(message), dict) else None
    except (ValueError, RecursionError):
        body = None
    return Refused(status, "ModelError", message, body=body)
