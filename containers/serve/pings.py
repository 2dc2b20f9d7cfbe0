"""Health checks that the front's worker can answer at once, whatever its request threads do."""

import socket

from gunicorn.workers.gthread import TConn

_START = b"GET /ping HTTP/1."
_LONGEST = 2048  # bytes of its head; a longer one waits for its turn with all others
_WITH_BODY = (b"\r\ncontent-length:", b"\r\ntransfer-encoding:", b"\r\nexpect:")


def asked_for(conn: TConn) -> bool:
    """Whether a whole `GET /ping` is there that nobody has read: neither its head nor a body can keep a thread waiting.

    Reads nothing, and does not wait.
    """
    if conn.parser is not None and conn.parser.unreader.buf.getvalue():  # what a thread has read comes first
        return False
    try:
        head, end, _ = conn.sock.recv(_LONGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT).partition(b"\r\n\r\n")
    except OSError:  # its thread will see
        return False
    return bool(end) and head.startswith(_START) and not any(name in head.lower() for name in _WITH_BODY)
