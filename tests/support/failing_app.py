"""A WSGI application that fails before its answer, or in the middle of it, or keeps callers with X-Waits waiting until somebody
asks for /release. /waiting tells how many came.
"""

import threading
from collections.abc import Iterator

_waiting: list[str] = []
_released = threading.Event()


def app(environ: dict, start_response) -> Iterator[bytes]:
    path = environ["PATH_INFO"]
    if path == "/before":
        raise ValueError("before the head")
    if path == "/release":
        _released.set()
    if "HTTP_X_WAITS" in environ:
        _waiting.append(path)
        _released.wait(600)
    start_response("200 OK", [("Content-Length", "8"), ("Content-Type", "text/plain")])
    return iter([f"{len(_waiting):8}".encode()]) if path == "/waiting" else _answer(fails=path == "/within")


def _answer(fails: bool) -> Iterator[bytes]:
    yield b"half"
    if fails:
        raise ValueError("after the head")
    yield b"done"
