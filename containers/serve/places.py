"""How many requests may do one thing at once. Each keeps its place until its answer is written, and with it the thread that
writes: a client may take its time over a large answer.
"""

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from flask import request
from werkzeug.wsgi import ClosingIterator

from containers.serve.errors import Overloaded

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HELD = "kennel.places"


class Places:
    """`count` of them. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    def take(self) -> None:
        """One for the request that is handled now. Raises Overloaded where none is left."""
        if not self._free.acquire(blocking=False):
            raise Overloaded("every request thread is taken: try again in a moment, or add instances")
        request.environ[_HELD].callback(self._free.release)


def given_back(application: "WSGIApplication") -> "WSGIApplication":
    """`application`, whose requests give back what they took once the server closes their answer (PEP 3333: it always does)."""

    def counted(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        held = environ[_HELD] = ExitStack()
        try:
            return ClosingIterator(application(environ, start_response), held.close)
        except BaseException:
            held.close()
            raise

    return counted
