"""How many requests may do one thing at once. Each keeps its place until its answer is written, and with it the thread that
writes: a client may take its time over a large answer.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from flask import request
from werkzeug.wsgi import ClosingIterator

from containers.serve.errors import Overloaded
from containers.serve.shares import Shares

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HELD = "kennel.places"
_FULL = "every request thread is taken: try again in a moment, or add instances"
_MODEL_FULL = "the requests under way leave no place for one more of this model: try again in a moment, or add instances"


class Places:
    """`count` of them. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._shares = Shares(count)

    def take(self, model: str = "") -> None:
        """One for the request that is handled now, which is for `model` where there are several: each has a share of them.

        Raises Overloaded.
        """
        if not self._shares.take(1, model):
            raise Overloaded(_MODEL_FULL if model else _FULL)
        request.environ[_HELD].callback(partial(self._shares.give_back, 1, model))


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
