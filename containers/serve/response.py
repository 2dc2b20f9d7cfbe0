"""gunicorn's response, written in one packet where it can be, and to a client that takes it slowly, or not at all."""

import errno
import fcntl
import functools
import socket
import struct
import termios
import time

from gunicorn import util
from gunicorn.http import wsgi

_READER_SECONDS = 10.0  # a client that takes nothing of its answer for so long is hung up on
_SLOWEST_READER = 32 << 10  # bytes a second: one slower than this over all of a large answer is hung up on too


class Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response; one whose whole body is at hand goes out together with its head: one packet, one system call.

    `write` raises BrokenPipeError when the client takes nothing for _READER_SECONDS, or less than _SLOWEST_READER over all.
    """

    def write(self, part: bytes) -> None:
        self.sock.settimeout(_READER_SECONDS)
        if self.headers_sent or self._omits_body or len(part) != self.response_length:
            super().write(part)
            return
        first = f"HTTP/{self.req.version[0]}.{self.req.version[1]} {self.status}\r\nServer: {self.version}\r\n"
        state = f"Date: {_date(int(time.time()))}\r\nConnection: {'close' if self.should_close() else 'keep-alive'}\r\n"
        rest = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        self.headers_sent: bool = True
        self.sent: int = len(part)
        _send(self.sock, f"{first}{state}{rest}\r\n".encode("latin-1") + part)


def _send(connection: socket.socket, data: bytes) -> None:
    """All of it, to a slow client too. `sendall` takes the socket's time limit for the whole; and as long as much waits in the
    kernel, which a slow client still takes, the socket is not writable for longer than the limit."""
    left = memoryview(data)
    late = time.monotonic() + _READER_SECONDS + len(left) / _SLOWEST_READER
    before = len(left)  # bytes the client has not got
    while left:
        try:
            left = left[connection.send(left) :]
        except TimeoutError:
            (queued,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
            if len(left) + queued >= before:
                raise BrokenPipeError(errno.EPIPE, "the client does not take its answer") from None
            before = len(left) + queued
        if left and time.monotonic() > late:
            raise BrokenPipeError(errno.EPIPE, "the client takes its answer too slowly")


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    date: str = util.http_date(second)
    return date
