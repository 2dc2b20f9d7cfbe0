"""What the server does when something dies, hangs, is slow, or is too much. Each server here is real; so are the signals.

A model process that is stopped (SIGSTOP) is as slow as the test wants it to be.
"""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.artifacts import photo
from tests.support.server import PATIENCE, UNHURRIED, Server, serving, until
from tests.support.slow_model import SLOTS, gauge, in_flight, model, stopped, waiting
from tests.support.stopwatch import Stopwatch

JPEG = photo(1, format="JPEG")


def test_a_request_waiting_for_a_killed_model_process_is_answered_by_its_replacement(server: Server, pool: ThreadPoolExecutor):
    victim = model(server)
    with stopped(victim):
        (sent,) = waiting(server, pool, [JPEG])
        victim.kill()
    assert sent.result().status_code == 200
    assert model(server).pid != victim.pid
    assert server.ping() == 200


def test_requests_inside_a_killed_model_process_get_an_error_not_a_hang(server: Server, pool: ThreadPoolExecutor):
    """Keep it busy, kill it in the middle, again and again until a photo was lost."""

    def attempt() -> set[int]:
        victim, stop = model(server), threading.Event()

        def caller() -> set[int]:
            seen = set()
            while not stop.is_set():
                seen.add(server.invoke(photo(2, (600, 400), "JPEG")).status_code)
            return seen

        callers = [pool.submit(caller) for _ in range(SLOTS)]
        in_flight(server, SLOTS)
        victim.kill()
        until(lambda: not server.processes("kennel-model") or model(server).pid != victim.pid, "the victim is gone")
        stop.set()
        seen = set().union(*(future.result() for future in callers))
        until(lambda: server.ping() == 200, "a replacement serves")
        return seen

    seen: set[int] = set()
    for _ in range(5):
        seen |= attempt()
        assert seen <= {200, 500, 503}
        if 500 in seen:
            break
    in_flight(server, 0)
    assert server.events("model process ended: replacing it")


def test_a_killed_front_breaks_its_connections_and_is_replaced_with_its_slots(server: Server, pool: ThreadPoolExecutor):
    (front,) = server.processes("kennel-front")
    with stopped(model(server)):
        broken = waiting(server, pool, [JPEG] * SLOTS)
        front.kill()
        for future in broken:
            assert isinstance(future.exception(), requests.ConnectionError)
        until(lambda: [p.pid for p in server.processes("kennel-front")] not in ([], [front.pid]), "a new front")
        assert server.invoke(JPEG).json()["error"]["kind"] == "Overloaded"  # the model may still write the dead front's slots
    until(lambda: server.invoke(JPEG).status_code == 200, "the slots came back")
    answers = [pool.submit(server.invoke, JPEG) for _ in range(SLOTS)]
    assert {future.result().status_code for future in answers} == {200}


def test_slow_and_silent_clients_starve_nobody(server: Server):
    with ExitStack() as stack:

        def connect(data: bytes) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            connection.sendall(data)
            return connection

        silent = [connect(b"") for _ in range(100)]
        for _ in range(5):
            connect(b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        uploads = [connect(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc") for _ in range(20)]
        for _ in range(20):
            watch = Stopwatch()
            assert server.ping(timeout=60) in (200, 503)
            assert watch.seconds < 2
        # Uploads that stall lose their turn with an answer, or were refused at once when they held too many threads.
        answers = [connection.recv(4096) for connection in uploads]
        assert {answer.split()[1] for answer in answers} <= {b"408", b"503"}, answers
        assert any(b" 408 " in answer for answer in answers)
        assert silent[0].recv(10) == b""  # hung up on
    assert server.invoke(JPEG).status_code == 200


@contextmanager
def trickling(server: Server, path: bytes, clients: int):
    """Connections that announce a megabyte and send a byte of it every tenth of a second."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n" % path
    ended = threading.Event()
    with ExitStack() as stack:
        connections = []
        for _ in range(clients):
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)))
            connections[-1].sendall(head)

        def send() -> None:
            while not ended.wait(0.1):
                for connection in connections:
                    with suppress(OSError):
                        connection.send(b"x")

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield connections
        finally:
            ended.set()
            sender.join()


def test_bodies_that_trickle_after_an_answer_hold_no_thread_for_long(server: Server):
    with trickling(server, b"/nothing", 40) as connections:  # twice the threads there are
        assert {connection.recv(4096).split()[1] for connection in connections} == {b"404"}
        assert server.ping() == 200


@pytest.mark.slow
def test_a_body_that_trickles_is_given_up_with_an_answer(server: Server):
    with trickling(server, b"/invocations", 2) as connections:
        for answer in [connection.recv(4096) for connection in connections]:
            assert answer.split()[1] == b"408"
            assert b"\r\nConnection: close\r\n" in answer
    assert server.invoke(JPEG).status_code == 200


def test_clients_that_hang_up_leave_no_slot_behind(server: Server):
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    with stopped(model(server)):
        for body in (JPEG[:100], JPEG):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(head + body)
        in_flight(server, 1)
    in_flight(server, 0)
    assert server.invoke(JPEG).status_code == 200
    assert not server.events("unexpected error")


def test_a_late_answer_is_504_and_is_not_computed(model_dir: Path, tmp_path: Path):
    settings = UNHURRIED | {"request_timeout_seconds": 3}
    with serving(model_dir, tmp_path / "log", fronts=1, slots=1, **settings) as server:
        with stopped(model(server)):
            late = server.invoke(JPEG)
            assert (late.status_code, late.json()["error"]["kind"]) == (504, "DeadlineExceeded")
            assert server.invoke(JPEG).status_code == 503  # its only slot may still be written
        until(lambda: gauge(server, "kennel_photos_submitted") == 0, "the model has met the photo")
        assert gauge(server, "kennel_batch_photos_sum") == 0
        until(lambda: server.invoke(JPEG).status_code == 200, "the slot came back")


def test_a_stuck_model_process_fails_pings_and_is_replaced(model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor):
    with serving(model_dir, tmp_path / "log", fronts=1, **UNHURRIED | {"stuck_after_seconds": 5}) as server:
        stuck = model(server)
        with stopped(stuck):
            waiting = pool.submit(server.invoke, JPEG)
            until(lambda: server.ping() == 503, "/ping says 503")
            until(lambda: server.ping() == 200, "the replacement is ready")
        assert waiting.result().status_code == 200
        assert model(server).pid != stuck.pid
        assert server.events("model process is stuck: killing it")


def test_two_model_processes_one_dies_the_other_serves(model_dir: Path, tmp_path: Path):
    with serving(model_dir, tmp_path / "log", fronts=1, model_processes=2) as server:
        until(lambda: gauge(server, "kennel_model_processes_ready") == 2, "both are ready")
        server.processes("kennel-model-0")[0].kill()
        until(lambda: server.events("model process ended: replacing it"), "the death was noticed")
        for _ in range(5):
            assert server.ping() == 200
            assert server.invoke(JPEG).status_code == 200
        until(lambda: gauge(server, "kennel_model_processes_ready") == 2, "it was replaced")
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()  # nothing outlives PID 1
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive
