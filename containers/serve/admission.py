"""Refusing costs as little as it can: what must be refused because every slot is taken is answered before Flask sees it and
before its body is read, so that overload does not take from the requests that were accepted.

The front's worker reads and forgets the body afterwards, as after every early answer.
"""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from containers.serve import exchange
from containers.serve.errors import Overloaded

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FULL = "every slot is taken: try again in a moment, or add instances"
_STATUS = f"{Overloaded.status} SERVICE UNAVAILABLE"
_KIND = Overloaded.__name__


def refuse_when(full: Callable[[], bool], application: "WSGIApplication") -> "WSGIApplication":
    """`application`, but for invocations that come while `full`."""

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/invocations" and environ["REQUEST_METHOD"] == "POST" and full():
            return _refuse(environ, start_response)
        return application(environ, start_response)

    return guarded


def _refuse(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    started = time.perf_counter()
    identity = exchange.request_id(environ.get(_key(exchange.INFERENCE_ID), ""))
    body = exchange.error_body(_KIND, FULL, identity).encode()
    fixed = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Retry-After", str(Overloaded.retry_after_seconds)),
    ]
    start_response(_STATUS, fixed + exchange.headers(identity, environ.get(_key(exchange.ATTRIBUTES), "")))
    exchange.record("/invocations", Overloaded.status, started, identity, bytes=None, photos=None, error=_KIND)
    return [body]


def _key(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
