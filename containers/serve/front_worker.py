"""gunicorn's threaded worker, where a client that says nothing, or little, costs no request thread for long.

A connection waits in the poller until its first bytes arrive, and must then have sent all its headers within HEADER_SECONDS.
(The time a body may take is the application's business.) What is not HTTP gets a JSON answer like every other error.

A health check that has come whole is answered by a thread that does nothing else: behind clients that upload slowly what is
refused, it would wait for its turn longer than a load balancer does.

A thread that has answered waits a moment for the same client's next request: handing the connection to the poller and back
wakes two threads and costs as much as all of Flask.
"""

import errno
import select
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from containers.serve import exchange, pings
from containers.serve.response import Response

HEADER_SECONDS = 10.0
_DISCARD_SECONDS = 30.0  # for the rest of a body that was answered early; a slow client must send it all to see the answer
_STALL_SECONDS = 5.0  # without a byte of it
_BUSY_DISCARD_SECONDS, _BUSY_STALL_SECONDS = 2.0, 0.25  # while a quarter of the threads or more is taken, and at the end
_SILENT_SECONDS = 2.0
_PING_THREADS = 4
_NEXT_REQUEST_MS = 100  # more than a busy client takes from an answer to its next request
_STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}

body_limits: dict[socket.socket, float] = {}
"""Connections from which a thread reads a body, and until when (time.monotonic()). One call of gunicorn's may wait for a
megabyte, byte by byte, so a thread cannot watch the time itself: the main loop ends the stream, the thread reads its end."""


def _has_bytes(connection: socket.socket, milliseconds: int = 0) -> bool:
    """Whether there is something to read by then, the end of the stream included. Also where a thread has closed it."""
    waiter = select.poll()
    try:
        waiter.register(connection, select.POLLIN)
    except ValueError:  # closed
        return True
    return bool(waiter.poll(milliseconds))


class FrontWorker(ThreadWorker):  # type: ignore[misc]
    def init_process(self) -> None:
        self._reading: dict[TConn, float] = {}  # connections whose headers a thread reads, and since when
        self._discarding: dict[TConn, float] = {}  # connections whose body a thread reads after the answer, and since when
        self._held: set[TConn] = set()  # connections that have a thread
        self._most_patient = self.cfg.threads // 2
        self._pings, self._pinging = ThreadPoolExecutor(_PING_THREADS), 0
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.handle_exit(signal.SIGTERM, None)  # the port was closed: the signal is on its way

    def enqueue_req(self, conn: TConn) -> None:
        if conn.initialized or conn.data_ready:
            if self._pinging < _PING_THREADS and pings.asked_for(conn):  # else by any thread: a client may not read its answers
                self._pinging += 1
                answered = self._pings.submit(self._handle_one, conn)  # and then back to the poller, whatever comes next
                answered.add_done_callback(lambda future: self.method_queue.defer(self._pinged, conn, future))
            else:
                super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEADER_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _pinged(self, conn: TConn, future: Future[Any]) -> None:
        self._pinging -= 1
        self.finish_request(conn, future)

    def handle(self, conn: TConn) -> Any:
        self._held.add(conn)
        try:
            keep = self._handle_one(conn)
            while keep is True and self._goes_on(conn):
                keep = self._handle_one(conn)
            return keep
        finally:
            self._held.discard(conn)

    def _goes_on(self, conn: TConn) -> bool:
        """Whether the next request is here within _NEXT_REQUEST_MS. Not while many threads are taken, nor at the end."""
        if not self.alive or len(self._held) > self._most_patient:
            return False
        if conn.parser.unreader.buf.getvalue():  # read together with this one
            return True
        return _has_bytes(conn.sock, _NEXT_REQUEST_MS)

    def _handle_one(self, conn: TConn) -> Any:
        self._reading[conn] = time.monotonic()
        try:
            keep = super().handle(conn)
        finally:
            self._reading.pop(conn, None)
        if keep is False:  # here, since gunicorn would linger in the main loop, where one client can hold up all others
            util.close_graceful(conn.sock, timeout=_BUSY_STALL_SECONDS)
        return keep

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """gunicorn's, without the hooks, the access log and the count of requests that no setting of ours asks for."""
        self._reading.pop(conn, None)
        answer, environ = wsgi.create(req, conn.sock, conn.client, conn.server, self.cfg, response_class=Response)
        environ["wsgi.multithread"] = True
        if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
            answer.force_close()
        parts = self.wsgi(environ, answer.start_response)
        if req.body.failed or answer.status_code == HTTPStatus.REQUEST_TIMEOUT:  # where its body ends nobody knows
            answer.force_close()
        try:
            for part in parts:
                answer.write(part)
            answer.close()
        except OSError:
            raise
        except Exception:
            if not answer.headers_sent:
                raise
            self.log.exception("the application failed within its answer")  # a second answer behind it would corrupt it
            return False
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return not answer.should_close()

    def finish_request(self, conn: TConn, fs: Any) -> None:
        """gunicorn's counts a connection twice that its thread has closed; at the end it would then not wait for the others."""
        if conn.sock.fileno() == -1:
            self.nr_conns -= 1
            return
        super().finish_request(conn, fs)

    def _is_busy(self) -> bool:
        return not self.alive or len(self._held) >= self.cfg.threads // 4

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Read what an early answer left of the body, while it flows: else the client meets a reset, not the answer."""
        conn.sock.settimeout(_BUSY_STALL_SECONDS if self._is_busy() else _STALL_SECONDS)
        self._discarding[conn] = time.monotonic()
        try:
            while conn.parser.mesg.body.read(1 << 20):
                pass
        except (OSError, ParseException):
            keepalive = False
        given_up = self._discarding.pop(conn, None) is None  # by the main loop
        return keepalive and not given_up

    def murder_pending(self) -> None:
        """Called by the main loop at least once a second. When slow headers hold half the threads, none gets the full time.

        Where bytes are there that nobody has read, the thread is slow and not the client.
        """
        if not self.alive:  # who has not said a word yet is not waited for
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, time.monotonic() + _SILENT_SECONDS)
        super().murder_pending()
        reading = list(self._reading.items())
        patience = HEADER_SECONDS if len(reading) < self.cfg.threads // 2 else 1.0
        for conn, since in reading:
            if time.monotonic() - since > patience and not _has_bytes(conn.sock):
                with suppress(OSError):  # its thread reads the end of the stream now
                    conn.sock.shutdown(socket.SHUT_RDWR)
        patience = _BUSY_DISCARD_SECONDS if self._is_busy() else _DISCARD_SECONDS
        for conn, since in list(self._discarding.items()):
            if time.monotonic() - since > patience:
                self._discarding.pop(conn, None)
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)
        for connection, limit in list(body_limits.items()):
            if time.monotonic() > limit:
                with suppress(OSError):  # it can still be answered
                    connection.shutdown(socket.SHUT_RD)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what is not HTTP, or not for us, as the application answers its errors."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        started, identity = time.perf_counter(), exchange.request_id("")
        status = _STATUSES.get(type(exc), HTTPStatus.BAD_REQUEST)
        body = exchange.error_body("BadRequest", f"not a valid HTTP request: {exc}", identity).encode()
        fixed = [("Connection", "close"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        head = "".join([f"{name}: {value}\r\n" for name, value in fixed + exchange.headers(identity, "")])
        with suppress(OSError):
            client.sendall(f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode() + body)
        exchange.record("unknown", status.value, started, identity, error="BadRequest")
