"""Serving's branch of the error tree. The class carries the HTTP status; one handler in `app` reads it.

core.Error
├── RequestError            the caller must change the request
│   ├── BadRequest 400 · NotFound 404 · NotAcceptable 406 · TooSlow 408 · AlreadyLoaded 409
│   └── TooLarge 413 · UnsupportedMediaType 415
└── ServiceError            the caller may try again, or an operator must act
    ├── Overloaded 503 (Retry-After)  ·  NotReady 503  ·  DeadlineExceeded 504  ·  OutOfMemory 507  ·  ModelFailed 500
"""

import bisect
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from containers.core.errors import Error

if TYPE_CHECKING:
    import numpy as np


_LONGEST, _LONGEST_ESCAPED = 1000, 1700  # characters of a message, and of its JSON, where one may take twelve


def described(kind: str, message: str) -> dict[str, str]:
    """An error as every answer has it, cut short: SageMaker passes on at most 2,048 characters of an error's body."""
    message = message[:_LONGEST]
    if len(json.dumps(message)) > _LONGEST_ESCAPED:
        ends = list(itertools.accumulate(len(json.dumps(character)) - 2 for character in message))
        message = message[: bisect.bisect_right(ends, _LONGEST_ESCAPED)]
    return {"kind": kind, "message": message}


class RequestError(Error):
    status = 400


class BadRequest(RequestError):
    pass


class NotFound(RequestError):
    status = 404


class AlreadyLoaded(RequestError):
    status = 409


class NotAcceptable(RequestError):
    status = 406


class TooSlow(RequestError):
    status = 408


class TooLarge(RequestError):
    status = 413


class UnsupportedMediaType(RequestError):
    status = 415


class ServiceError(Error):
    status = 500
    retry_after_seconds: int | None = None


class ModelFailed(ServiceError):
    pass


class Overloaded(ServiceError):
    status = 503
    retry_after_seconds = 1


class NotReady(ServiceError):
    status = 503
    retry_after_seconds = 5


class DeadlineExceeded(ServiceError):
    status = 504


class OutOfMemory(ServiceError):
    """`answered`: probabilities (photos, classes) of the batch's first photos, which were computed before memory ran out."""

    status = 507
    exit_code = 71

    def __init__(self, message: str, answered: "Sequence[np.ndarray] | np.ndarray" = ()) -> None:
        super().__init__(message)
        self.answered = answered
