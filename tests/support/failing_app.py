"""A WSGI application that fails before its answer, or in the middle of it, or takes the seconds that X-Takes says."""

import time
from collections.abc import Iterator


def app(environ: dict, start_response) -> Iterator[bytes]:
    if environ["PATH_INFO"] == "/before":
        raise ValueError("before the head")
    time.sleep(float(environ.get("HTTP_X_TAKES", 0)))
    start_response("200 OK", [("Content-Length", "8"), ("Content-Type", "text/plain")])
    return _answer(fails=environ["PATH_INFO"] == "/within")


def _answer(fails: bool) -> Iterator[bytes]:
    yield b"half"
    if fails:
        raise ValueError("after the head")
    yield b"done"
