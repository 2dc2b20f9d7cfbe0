"""A TCP proxy on loopback that spoils HTTP on purpose: what a bad network does between a client and a server."""

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType

FAULTS = ("delay", "drop", "reset", "stall", "truncate", "lose the answer")
"""delay: the request waits · drop: closed before it is passed on · reset: cut in the middle of the request · stall: nobody
answers · truncate: the answer ends early · lose the answer: the server did it, the client does not hear."""
_CHUNK = 1 << 16
_END = b"\r\n\r\n"


class FaultProxy:
    """Passes connections on to `target`. While `rate` > 0, that share of requests meets a fault that `seed` chooses."""

    def __init__(self, target: tuple[str, int], seed: int, *, delay_seconds: float = 0.3, stall_seconds: float = 5.0) -> None:
        self.rate, self.faults = 0.0, FAULTS
        self.met: Counter[str] = Counter()
        self._target, self._delay, self._stall = target, delay_seconds, stall_seconds
        self._dice, self._lock, self._closing = random.Random(seed), threading.Lock(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._accept, name="fault-proxy", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _draw(self) -> str:
        with self._lock:
            if not self.rate or self._dice.random() >= self.rate:
                return ""
            fault = self._dice.choice(self.faults)
            self.met[fault] += 1
            return fault

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._target, 10) as server:
            answered, fault = True, ""
            while not self._closing.is_set():
                ready, _, _ = select.select([client, server], [], [], 0.2)
                if client in ready:
                    if not (data := client.recv(_CHUNK)):
                        return
                    fault, answered = (self._draw() if answered else fault), False
                    if not self._pass_on(client, server, data, fault):
                        return
                elif server in ready:
                    if not (data := server.recv(_CHUNK)):
                        return
                    answered = True
                    if fault == "lose the answer":
                        _reset(client)
                        return
                    whole = fault != "truncate" or data.endswith(_END)  # headers alone: what follows is cut
                    client.sendall(data if whole else _cut(data))
                    if not whole:
                        return

    def _pass_on(self, client: socket.socket, server: socket.socket, data: bytes, fault: str) -> bool:
        """Part of a request to the server; False where the connection ends here."""
        if fault == "drop":
            return False
        if fault == "stall":
            self._closing.wait(self._stall)
            return False
        if fault == "reset":
            server.sendall(data[: len(data) // 2])
            _reset(client)
            _reset(server)
            return False
        if fault == "delay":
            time.sleep(self._delay)
        server.sendall(data)
        return True


def _cut(answer: bytes) -> bytes:
    """The headers, and half of the body. Not less: within TLS, headers are one record, which arrives whole or not at all."""
    start = answer.find(_END) + len(_END) if answer.startswith(b"HTTP/") else 0
    return answer[: start + (len(answer) - start) // 2]


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
