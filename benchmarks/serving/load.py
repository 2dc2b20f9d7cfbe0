"""An HTTP load generator of one thread: closed loop (C connections, each waits for its answer) or open loop (a fixed rate).

Requests are prepared bytes on raw sockets, so that the generator takes little of the machine it shares with the server.
"""

import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_PATIENCE_SECONDS = 60.0  # after a window, for what is still in flight: the next window finds an idle server


@dataclass
class Result:
    """Seconds of each answer within the window, by status (0: connection lost). `wall`: seconds of the window.

    `outside`: how many were answered before or after it, by status; the server worked for them too.
    """

    wall: float
    seconds: dict[int, list[float]] = field(default_factory=dict)
    outside: dict[int, int] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        """All that the server worked for."""
        return sum(map(len, self.seconds.values())) + sum(self.outside.values())

    @property
    def rate(self) -> float:
        """Successful answers per second."""
        return len(self.seconds.get(200, ())) / self.wall

    @property
    def failures(self) -> int:
        """Also outside the window."""
        within = sum(len(values) for status, values in self.seconds.items() if status != 200)
        return within + sum(count for status, count in self.outside.items() if status != 200)

    def percentile_ms(self, share: float, status: int = 200) -> float:
        values = sorted(self.seconds.get(status, ()))
        return values[min(len(values) - 1, int(share * len(values)))] * 1000 if values else float("nan")


def request(path: str, body: bytes, content_type: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection:
    """One keep-alive connection; reconnects where the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket: socket.socket | None = None
        self.outgoing = memoryview(b"")
        self.incoming = b""
        self.started = 0.0
        self.ends = False  # the server closes it after this answer

    def begin(self, data: bytes, now: float) -> None:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setblocking(False)
        self.outgoing, self.incoming, self.started, self.ends = memoryview(data), b"", now, False

    def write(self) -> bool:
        """True when everything is sent."""
        assert self.socket is not None
        try:
            self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except BlockingIOError:
            return False
        return not self.outgoing

    def read(self) -> int | None:
        """The status once the answer is complete, 0 where the connection was lost, None while more is to come."""
        assert self.socket is not None
        try:
            part = self.socket.recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        self.incoming += part
        head, found, rest = self.incoming.partition(b"\r\n\r\n")
        if not found:
            return None if part else 0
        lines = head.lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
        self.ends = not part or any(line.startswith(b"connection:") and b"close" in line for line in lines)
        complete = len(rest) >= length if length is not None else rest.endswith(b"0\r\n\r\n") or not part
        return status if complete else None if part else 0

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Load:
    """Runs one kind of load after another against one port.

    The window opens `lead` seconds after the first request, while the load goes on: a server that was idle answers nothing at
    first, and what it is at when the window closes is not counted, so that from the first request on it would look slower than
    it is by half of what it computes at once (8 photos of ResNet-50 on one core: 0.3 s).
    """

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port, self._requests, self._next = port, requests, 0

    def closed(self, concurrency: int, seconds: float, lead: float = 0.0) -> Result:
        """`concurrency` requests in flight at any time for `lead` and then `seconds`."""
        return self._run(seconds, lead, connections=concurrency, rate=None)

    def open(self, rate: float, seconds: float, lead: float = 0.0, most: int = 512) -> Result:
        """`rate` requests per second whether or not answers come, over at most `most` connections."""
        return self._run(seconds, lead, connections=most, rate=rate)

    def _run(self, seconds: float, lead: float, connections: int, rate: float | None) -> Result:
        selector = selectors.DefaultSelector()
        idle = [_Connection(self._port) for _ in range(connections)]
        every = list(idle)
        result = Result(seconds)
        outside: dict[int, list[float]] = {}
        began = time.perf_counter()
        opens, closes = began + lead, began + lead + seconds
        due = deque(began + index / rate for index in range(int(rate * (lead + seconds)))) if rate else deque[float]()
        try:
            while (now := time.perf_counter()) < closes:
                while idle and (rate is None or (due and due[0] <= now)):
                    self._begin(selector, idle.pop(), due.popleft() if rate else time.perf_counter())
                pause = min(closes - now, max(0.0, due[0] - now) if due and idle else 1.0)
                for key, events in selector.select(pause):
                    counted = result.seconds if time.perf_counter() >= opens else outside
                    self._turn(selector, key.data, events, idle, counted)
            while selector.get_map() and time.perf_counter() < closes + _PATIENCE_SECONDS:
                for key, events in selector.select(1.0):
                    self._turn(selector, key.data, events, idle, outside)
            result.outside = {status: len(values) for status, values in outside.items()}
        finally:
            for connection in every:
                connection.close()
            selector.close()
        return result

    def _begin(self, selector: selectors.BaseSelector, connection: _Connection, now: float) -> None:
        self._next = (self._next + 1) % len(self._requests)
        connection.begin(self._requests[self._next], now)
        assert connection.socket is not None
        done = connection.write()
        selector.register(connection.socket, selectors.EVENT_READ | (0 if done else selectors.EVENT_WRITE), connection)

    def _turn(
        self,
        selector: selectors.BaseSelector,
        connection: _Connection,
        events: int,
        idle: list[_Connection],
        seconds: dict[int, list[float]],
    ) -> None:
        sock = connection.socket
        assert sock is not None
        if events & selectors.EVENT_WRITE:
            try:
                if connection.write():
                    selector.modify(sock, selectors.EVENT_READ, connection)
            except OSError:
                events = selectors.EVENT_READ
        if not events & selectors.EVENT_READ:
            return
        status = connection.read()
        if status is None:
            return
        selector.unregister(sock)
        if status == 0 or connection.ends:
            connection.close()
        seconds.setdefault(status, []).append(time.perf_counter() - connection.started)
        idle.append(connection)
