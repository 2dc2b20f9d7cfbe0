"""SIGTERM: pings fail, the port closes, what was accepted is answered, exit code 0. Servers and signals are real."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers.serve import supervisor
from tests.support.artifacts import photo
from tests.support.server import UNHURRIED, serving, until
from tests.support.slow_model import SLOTS, http_side, model, stopped, waiting, was_sent
from tests.support.stopwatch import Stopwatch

JPEG = photo(1, format="JPEG")


def test_sigterm_fails_pings_answers_what_was_accepted_and_exits_0(model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor):
    with serving(model_dir, tmp_path / "log", fronts=1, slots=SLOTS, **UNHURRIED) as server:
        http = http_side(server.process.pid)
        with stopped(model(server)):
            accepted = waiting(server, pool, [JPEG] * SLOTS)
            watch, began = Stopwatch(), time.monotonic()
            with stopped(http):  # else the port closes when pings have failed for a second
                server.process.terminate()
                until(lambda: server.ping() == 503, "/ping says 503")
                until(lambda: was_sent(http, signal.SIGTERM), "the port is to be closed")
                assert time.monotonic() - began >= supervisor._LAME_DUCK_SECONDS
        assert [future.result().status_code for future in accepted] == [200] * SLOTS
        assert server.stop() == 0
        assert watch.seconds < 10
        assert server.events("stopped")[0]["unanswered"] == 0


def test_sigterm_waits_for_what_takes_longer_however_many_connections_there_were(
    model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor
):
    with serving(model_dir, tmp_path / "log", fronts=1, slots=SLOTS, **UNHURRIED) as server:
        for _ in range(20):
            assert server.ping() == 200  # a connection of its own each time
        with stopped(model(server)), socket.create_connection(("127.0.0.1", server.port)):  # one that never says a word
            accepted = waiting(server, pool, [JPEG] * SLOTS)
            watch = Stopwatch()
            server.process.terminate()
            time.sleep(5)  # gunicorn was told to stop a second ago at least
            assert server.process.poll() is None
        assert [future.result().status_code for future in accepted] == [200] * SLOTS
        assert server.stop() == 0
        assert watch.seconds < 15
        assert server.events("stopped")[0]["unanswered"] == 0


@pytest.mark.parametrize("fronts", [1, 2])
def test_after_sigterm_the_port_closes_while_what_was_accepted_is_still_answered(
    model_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor, fronts: int
):
    with serving(model_dir, tmp_path / "log", fronts=fronts, slots=4 * SLOTS, **UNHURRIED) as server:

        def refuses() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=60).close()
            except ConnectionRefusedError:
                return True
            return False

        with stopped(model(server)):
            accepted = waiting(server, pool, [JPEG] * SLOTS)
            server.process.terminate()
            until(refuses, "the port is closed")
            assert server.process.poll() is None
            assert not any(future.done() for future in accepted)
        assert [future.result().status_code for future in accepted] == [200] * SLOTS
        assert server.stop() == 0
        assert server.events("stopped")[0]["unanswered"] == 0
        assert "Traceback" not in server.log.read_text()
