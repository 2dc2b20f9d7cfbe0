"""What comes of it is in tests/contract/test_serving_overload.py."""

import socket

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.workers.gthread import TConn

from containers.serve import pings


@pytest.mark.parametrize(
    ("sent", "is_ping"),
    [
        (b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET /ping HTTP/1.0\r\n\r\n", True),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nPOST /invocations HTTP/1.1\r\nContent-Length: 9\r\n\r\n", True),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\n", False),  # it may take its time over the rest
        (b"GET /ping HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\n", False),
        (b"GET /ping HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"GET /ping HTTP/1.1\r\nX: " + b"y" * 3000 + b"\r\n\r\n", False),
        (b"GET /pings HTTP/1.1\r\n\r\n", False),
        (b"POST /invocations HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n", False),
        (b"", False),
    ],
)
def test_what_can_keep_no_thread_waiting_is_a_ping_and_is_left_to_be_read(sent: bytes, is_ping: bool):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        conn = TConn(Config(), ours, None, None)
        assert pings.asked_for(conn) == is_ping
        if sent:
            assert ours.recv(8192) == sent


def test_what_a_thread_has_read_already_comes_before_a_ping():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
        conn = TConn(Config(), ours, None, None)
        conn.parser = get_parser(conn.cfg, ours, None)
        assert pings.asked_for(conn)
        conn.parser.unreader.unread(b"GET / HTTP/1.1\r\n\r\n")
        assert not pings.asked_for(conn)
