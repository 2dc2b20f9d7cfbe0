"""The demo's own decisions; the whole of it runs in CI as a newcomer would run it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts import demo, runners
from scripts.machine import Stop

ROOT = Path(__file__).resolve().parents[3]


class Server(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()
        prediction = {"class": "grass", "bytes": len(body), "type": self.headers["Content-Type"]}
        self.wfile.write(json.dumps({"predictions": [prediction]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), type("Fresh", (Server,), {}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Ended:
    log = "its log"

    def check_alive(self) -> None:
        raise Stop("the server has ended")


def test_the_photo_to_classify_is_one_that_the_run_kept_for_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RUN", tmp_path)
    report = tmp_path / "model.run" / "output" / "data_report.json"
    report.parent.mkdir(parents=True)
    report.write_text('{"example": "/photos/test/cat/a.jpg"}')
    assert demo.unseen_photo() == Path("/photos/test/cat/a.jpg")
    report.write_text('{"example": null}')
    with pytest.raises(Stop, match="too few photos for a test split"):
        demo.unseen_photo()


def test_the_example_photos_are_whole() -> None:
    found = {split: len(list((demo.EXAMPLE / split).glob("*/*.jpg"))) for split in ("train", "valid", "test")}
    assert found == {"train": 72, "valid": 45, "test": 72}


def test_a_photo_is_sent_as_it_is(url: str, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"four")
    assert demo.classify(url, photo) == {"class": "grass", "bytes": 4, "type": "application/x-image"}


def test_a_server_that_answers_is_ready(url: str) -> None:
    demo.wait_until_ready(url, Ended())


def test_a_server_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="has ended"):
        demo.wait_until_ready("http://127.0.0.1:9", Ended())


def test_a_folder_that_is_none_ends_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo", "--data", str(tmp_path / "nothing")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"make demo: {tmp_path}/nothing is not a folder: DATA names a folder that holds a folder of photos for each class"
    )


def test_the_new_model_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for run, names in (
        ("old", ["manifest.json", "engines/a.xml", ".gitignore"]),
        ("new", ["manifest.json", "weights", "engines/b.xml"]),
    ):
        for name in names:
            path = tmp_path / run / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(run)
    (tmp_path / "new" / "model.run").mkdir()
    mounted = (tmp_path / "old" / "model").stat().st_ino
    demo.keep(tmp_path / "new", tmp_path / "old")
    found = sorted(path.relative_to(tmp_path / "old").as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["model/.gitignore", "model/engines/b.xml", "model/manifest.json", "model/weights"]
    assert (tmp_path / "old" / "model" / "manifest.json").read_text() == "new"
    assert (tmp_path / "old" / "model").stat().st_ino == mounted


@pytest.fixture
def processes(tmp_path: Path) -> runners.Processes:
    """A runner whose server is a sleeping process."""
    runner = runners.Processes()
    runner.log = str(tmp_path / "serve.log")
    runner._pid_file = tmp_path / "serve.pid"
    return runner


def test_stop_ends_the_server_that_was_started_and_nothing_else(processes: runners.Processes) -> None:
    assert processes.stop() is False
    with subprocess.Popen(["sleep", "60"]) as server:
        processes._pid_file.write_text(f"{server.pid} {runners._started(server.pid)}")
        assert processes.stop() is True
        assert server.wait(10) == -15
    with subprocess.Popen(["sleep", "60"]) as other:  # the pid was given to another program
        processes._pid_file.write_text(f"{other.pid} 12345")
        assert processes.stop() is False
        assert other.poll() is None
        other.kill()


def test_a_server_that_ended_shows_the_end_of_its_log(processes: runners.Processes, tmp_path: Path) -> None:
    processes._python = Path(sys.executable)
    processes._server = subprocess.Popen(["sh", "-c", "exit 3"])
    processes._server.wait()
    Path(processes.log).write_text("first\nthe reason\n")
    with pytest.raises(Stop, match="the reason"):
        processes.check_alive()
