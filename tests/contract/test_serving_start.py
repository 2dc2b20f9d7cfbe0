"""What a server does that cannot start, or is told to stop before it has: one line, the exit code of the error."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from containers.core import fast_jpeg
from tests.support.scripted_server import VARIABLE, Script
from tests.support.server import PATIENCE, Server


def run_to_the_end(model_dir: Path, tmp_path: Path, script: Script | None = None, **environ: str) -> tuple[int, str]:
    """Its exit code and its only line that is no JSON. `script`: for an engine that does what it says."""
    if script is None:
        server = Server(model_dir, tmp_path / "log", environ)
    else:
        script.write(tmp_path / "script.json")
        environ |= {VARIABLE: str(tmp_path / "script.json")}
        server = Server(model_dir, tmp_path / "log", environ, program="tests.support.scripted_server", engine="scripted")
    code = server.process.wait(PATIENCE)
    plain = [line for line in server.log.read_text().splitlines() if not line.startswith("{")]
    assert len(plain) == 1, server.log.read_text()
    return code, plain[0]


def test_a_model_that_cannot_be_served_is_one_line_and_the_error_s_exit_code(model_dir: Path, tmp_path: Path):
    code, line = run_to_the_end(tmp_path / "nowhere", tmp_path)
    assert code == 3
    assert line.startswith(f"kennel serve: ArtifactError: {tmp_path}/nowhere: no such model directory")
    altered = tmp_path / "altered"
    shutil.copytree(model_dir, altered)
    with (altered / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    code, line = run_to_the_end(altered, tmp_path)
    assert code == 3
    assert "SHA-256 differs" in line
    shutil.rmtree(altered)
    shutil.copytree(model_dir, altered)
    (altered / "golden.png").rename(altered / "photo.png")
    (altered / "golden.png").symlink_to("photo.png")
    code, line = run_to_the_end(altered, tmp_path)
    assert code == 3
    assert "is a link" in line


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_a_model_archive_that_leads_outside_or_brings_code_is_refused_and_runs_nothing(model_dir: Path, tmp_path: Path):
    def altered(name: str) -> tuple[Path, dict]:
        copy = Path(shutil.copytree(model_dir, tmp_path / name))
        return copy, json.loads((copy / "manifest.json").read_text())

    outside, facts = altered("outside")
    (tmp_path / "secret").write_bytes(b"x")
    facts["files"]["../secret"] = hashlib.sha256(b"x").hexdigest()
    (outside / "manifest.json").write_text(json.dumps(facts))
    code, line = run_to_the_end(outside, tmp_path)
    assert code == 3
    assert "../secret" in line
    assert "leads outside" in line

    nameless, facts = altered("nameless")
    facts["files"]["a\0b"] = hashlib.sha256(b"x").hexdigest()
    (nameless / "manifest.json").write_text(json.dumps(facts))
    code, line = run_to_the_end(nameless, tmp_path)
    assert code == 3
    assert line.startswith("kennel serve: ArtifactError: 'a\\x00b' cannot be a file of")

    pickled, facts = altered("pickled")
    data = pickle.dumps(Payload(tmp_path / "ran"))
    for name in ("weights.safetensors", "model.pth", "model.pkl"):
        (pickled / name).write_bytes(data)
    facts["files"]["weights.safetensors"] = hashlib.sha256(data).hexdigest()
    (pickled / "manifest.json").write_text(json.dumps(facts))
    code, line = run_to_the_end(pickled, tmp_path)
    assert code == 3
    assert line.startswith("kennel serve: ArtifactError: ")
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists()  # the payload works


def test_an_engine_that_answers_the_golden_photo_otherwise_than_eager_did_is_not_served(model_dir: Path, tmp_path: Path):
    code, line = run_to_the_end(model_dir, tmp_path, Script(wrong=True))
    assert code == 3
    assert "scripted on cpu answers the golden photo wrongly" in line


def test_a_model_that_does_not_fit_into_memory_is_said_so(model_dir: Path, tmp_path: Path):
    code, line = run_to_the_end(model_dir, tmp_path, Script(room=0))
    assert code == 71
    assert line.startswith("kennel serve: OutOfMemory: ")
    said = "CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"
    code, line = run_to_the_end(model_dir, tmp_path, Script(room=-1, full=said))
    assert code == 71
    assert line.startswith(f"kennel serve: OutOfMemory: the model does not fit into memory ({said.replace(chr(10), ' ')})")


def test_a_model_that_never_finishes_loading_is_given_up(model_dir: Path, tmp_path: Path):
    code, line = run_to_the_end(model_dir, tmp_path, Script(may_load=False), SERVE_LOAD_TIMEOUT_SECONDS="0.5")
    assert code == 1
    assert line == (
        "kennel serve: the model was not ready within 0.5 s: raise SERVE_LOAD_TIMEOUT_SECONDS, or use a faster instance"
    )


def test_settings_that_cannot_be_used_are_one_message(model_dir: Path, tmp_path: Path):
    code, line = run_to_the_end(model_dir, tmp_path, SERVE_ENGINE="fastest")
    assert code == 2
    assert "SERVE_ENGINE" in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "containers.serve",
            "--model-dir",
            str(model_dir),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "stop what uses it, or pass --port" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_sigterm_while_loading_exits_0(model_dir: Path, tmp_path: Path):
    Script(may_load=False).write(tmp_path / "script.json")
    environ = {VARIABLE: str(tmp_path / "script.json")}
    server = Server(model_dir, tmp_path / "log", environ, program="tests.support.scripted_server", engine="scripted")
    assert server.await_event("listening")["quick_jpeg"] == (fast_jpeg.load() is not None)
    assert server.ping() == 503
    refused = server.invoke(b"photo")
    assert refused.status_code == 503
    assert refused.json()["error"]["kind"] == "NotReady"
    assert server.stop(signal.SIGINT) == 0
