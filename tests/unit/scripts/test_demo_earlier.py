"""What the demo does with the server that an earlier demo left."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from scripts import demo, runners
from scripts.machine import Stop
from tests.support.server import free_port


class Trained:
    """A runner whose training is a matter of milliseconds."""

    log = "its log"

    def __init__(self, meanwhile: Sequence[socket.socket] = (), port: int = 0) -> None:
        self._meanwhile, self._port = meanwhile, port
        self.served: list[int] = []

    def train(self, data: Path, out: Path, flags: Sequence[str]) -> None:
        for name in ("model/report", "model.run"):
            (out / name).mkdir(parents=True)
        for other in self._meanwhile:
            other.bind(("127.0.0.1", self._port))
            other.listen()

    def serve(self, model: Path, port: int) -> None:
        self.served.append(port)


@pytest.fixture
def earlier(processes: runners.Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[runners.Processes]:
    """What an earlier demo left serving."""
    monkeypatch.setattr(demo, "RUN", tmp_path / "demo")
    monkeypatch.setattr(demo, "NEXT", tmp_path / "demo" / "next")
    monkeypatch.setattr(demo, "earlier_runners", lambda: [processes])
    processes.serve(tmp_path, free_port())
    yield processes
    processes._server.kill()
    processes._server.wait()


def test_an_earlier_server_stays_where_the_new_one_has_no_port(
    earlier: runners.Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with socket.socket() as other:
        runner = Trained([other], port)
        monkeypatch.setattr(demo, "prepared_runner", lambda: runner)
        with pytest.raises(Stop, match=f"port {port} is taken"):  # found after training: it was free before
            demo.demo(demo.EXAMPLE, port)
        monkeypatch.setattr(demo, "prepared_runner", lambda: pytest.fail("set-up was begun"))
        with pytest.raises(Stop, match=f"port {port} is taken"):
            demo.demo(demo.EXAMPLE, port)
    assert runner.served == []
    assert earlier.port() is not None


def test_an_earlier_server_makes_way_for_the_new_one_on_its_port(
    earlier: runners.Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, port = Trained(), earlier.port()
    monkeypatch.setattr(demo, "prepared_runner", lambda: runner)
    monkeypatch.setattr(demo, "wait_until_ready", lambda *_: None)
    monkeypatch.setattr(demo, "report", lambda *_: None)
    assert port
    with socket.socket() as its_own:
        its_own.bind(("127.0.0.1", port))
        its_own.listen()
        demo.demo(demo.EXAMPLE, port)
    assert runner.served == [port]
    assert earlier.port() is None
