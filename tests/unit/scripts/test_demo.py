"""The demo's own decisions; tests/container/test_demo.py runs the whole of it as a newcomer would."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts import demo, environment, images, runners
from scripts.machine import ROOT, Stop
from tests.support.server import free_port


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
    assert demo.unseen_photo("http://here") == Path("/photos/test/cat/a.jpg")
    report.write_text('{"example": null, "classes": {"cat": {"train": 1, "valid": 5}, "dog": {"train": 1, "valid": 5}}}')
    with pytest.raises(
        Stop, match=r"no photo could be kept for a test \(cat 6, dog 6\): .* all the same, at http://here; make stop"
    ):
        demo.unseen_photo("http://here")


def test_the_example_photos_are_whole() -> None:
    found = {split: len(list((demo.EXAMPLE / split).glob("*/*.jpg"))) for split in ("train", "valid", "test")}
    assert found == {"train": 72, "valid": 45, "test": 72}


def test_a_photo_is_sent_as_it_is(url: str, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"four")
    assert demo.classify(url, photo) == {"class": "grass", "bytes": 4, "type": "application/x-image"}


def test_a_server_that_answers_is_ready(url: str) -> None:
    demo.wait_until_ready(url, Ended())


def test_a_server_that_hangs_up_is_one_line(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"four")
    with pytest.raises(Stop, match=r"the server did not answer .*refused"):
        demo.classify("http://127.0.0.1:9", photo)


def test_a_server_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="has ended"):
        demo.wait_until_ready("http://127.0.0.1:9", Ended())


@pytest.mark.parametrize(
    ("made", "problem"), [([], "is not a folder"), (["."], "holds no folder"), ([".git"], "holds no folder")]
)
def test_a_folder_without_classes_ends_with_one_line_before_any_set_up(tmp_path: Path, made: list[str], problem: str) -> None:
    data = tmp_path / "photos"
    for name in made:
        (data / name).mkdir(parents=True)
    done = subprocess.run([sys.executable, "-m", "scripts.demo", "--data", data], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    expected = "DATA names a folder that holds a folder of photos for each class"
    assert done.stderr.strip() == f"make demo: {data} {problem}: {expected}"


@pytest.mark.parametrize(
    ("photos", "says"),
    [
        ({"cat": 9, "dog": 1, "emu": 9}, "(dog 1): put at least 3 different ones into the folder of each class"),
        ({"cat": 0, "dog": 1}, "(cat 0, dog 1): put at least 3"),
        ({"cat": 2, "dog": 2}, "(cat 2, dog 2): put at least 3"),
        (dict.fromkeys("abcdef", 0), "(a 0, b 0, c 0, d 0, e 0, …): put at least 3"),
        ({"cat": 2, "dog": 3}, ""),
        ({"train/cat": 1, "valid/cat": 1}, ""),
        ({"cat/deeper": 3, "__MACOSX": 0}, ""),
    ],
    ids=str,
)
def test_a_class_with_too_few_photos_is_named_before_any_set_up(tmp_path: Path, photos: dict[str, int], says: str) -> None:
    for name, count in photos.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".hidden").touch()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").touch()
    if not says:
        return demo.check_data(tmp_path)
    with pytest.raises(Stop) as caught:
        demo.check_data(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path} holds too few photos {says}")
    return None


def test_a_number_that_is_no_port_ends_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "scripts.demo", "--port", "99999"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == "make demo: there is no port 99999: choose one from 1 to 65535 with PORT="


def test_a_folder_that_cannot_be_written_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(demo, "NEXT", tmp_path / "file" / "next")
    monkeypatch.setattr(demo, "earlier_runners", list)
    assert demo.main(["--port", str(free_port())]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"\nmake demo: {tmp_path}/file/next cannot be used (Not a directory): let this user ")
    assert len(said.err.strip().splitlines()) == 1


def test_training_that_was_stopped_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container it hears Ctrl-C, which this process does not, and ends well: the best epoch until then is there."""

    class Stopped:
        def train(self, data: Path, out: Path, flags: object) -> None:
            (out / "model").mkdir()
            (out / "model" / "manifest.json").touch()

    monkeypatch.setattr(demo, "RUN", tmp_path)
    monkeypatch.setattr(demo, "NEXT", tmp_path / "next")
    monkeypatch.setattr(demo, "earlier_runners", list)
    monkeypatch.setattr(demo, "prepared_runner", Stopped)
    monkeypatch.setattr(demo, "keep", lambda new, old: pytest.fail("it took the place of the demo's"))
    assert demo.main(["--port", str(free_port())]) == 1
    assert capsys.readouterr().err.startswith("\nmake demo: training was stopped before its end; ")


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
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes need, as far as stamps tell. On PATH is no docker but the test's, and no debootstrap."""
    (tmp_path / "venv" / environment.STAMPS).mkdir(parents=True)
    (tmp_path / "venv" / environment.STAMPS / "all").write_text(environment._digest(environment.REQUIREMENTS / "all.lock"))
    (tmp_path / "efficientnet_lite0.safetensors").touch()
    monkeypatch.setattr(runners, "VENV", tmp_path / "venv")
    monkeypatch.setattr(runners, "PRETRAINED", tmp_path)
    for name in ("bash", "sha256sum", "cut", "id"):
        (tmp_path / "tools").mkdir(exist_ok=True)
        (tmp_path / "tools" / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{tmp_path / 'tools'}")
    for name in ("BASE_IMAGE", "KENNEL_TRAIN_IMAGE", "KENNEL_SERVE_IMAGE"):
        monkeypatch.delenv(name, raising=False)


GOOD = {"version": "echo 20.10.24/20.10.24", "compose": "exit 0"}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (GOOD, f"the base image can neither be pulled nor made ({images.PUBLIC_BASE}): set BASE_IMAGE"),
        ({}, "no Docker engine answers"),
        (
            {"version": "echo 'dial: permission denied' >&2; exit 1"},
            "this user may not use the Docker engine: an administrator adds the user to the group docker",
        ),
    ],
    ids=["no base", "no engine", "no permission"],
)
@pytest.mark.usefixtures("installed")
def test_without_containers_the_same_programs_run_as_processes_and_it_is_said_why(
    fake_docker, capfd: pytest.CaptureFixture[str], answers: dict[str, str], why: str
) -> None:
    fake_docker(**answers)
    assert isinstance(demo.prepared_runner(), runners.Processes)
    said = f"==> No containers, as {why}: the same programs run as processes of this machine"
    assert said in capfd.readouterr().out


@pytest.mark.usefixtures("installed")
def test_images_that_the_environment_names_are_used_as_they_are(
    fake_docker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cli = fake_docker(**GOOD, image="echo sha256:1", build="exit 0")
    calls = cli.parent / "calls"
    assert isinstance(demo.prepared_runner(), runners.Containers)
    assert "build " in calls.read_text()
    calls.unlink()
    monkeypatch.setenv("KENNEL_TRAIN_IMAGE", "mine-train:1")
    monkeypatch.setenv("KENNEL_SERVE_IMAGE", "mine-serve:1")
    assert isinstance(demo.prepared_runner(), runners.Containers)
    assert "build " not in calls.read_text()
    assert "Images: mine-serve:1 and mine-train:1, as the environment says; nothing is built" in capfd.readouterr().out
