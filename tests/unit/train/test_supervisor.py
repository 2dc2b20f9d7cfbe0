"""The first process: signals, orphans, exit codes. Each test is a process of its own, since it must be somebody's PID 1."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.train import jobs
from tests.unit.train.jobs import SECONDS, Job


def in_a_process(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})


def result(process: subprocess.Popen[str]) -> Any:
    out, _ = process.communicate(timeout=SECONDS)
    return json.loads(out.splitlines()[-1])


PRELUDE = """
import json, os, signal, sys
from pathlib import Path
from containers.train import own_process, supervisor
boss = supervisor.Supervisor(stop_seconds=float(os.environ.get("STOP", "30")))
own_process.adopt_orphans()
"""


def test_orphans_are_adopted_and_reaped(tmp_path: Path) -> None:
    """The child leaves a grandchild that ends at once, and one that would live on."""
    child = """
import os, sys
if os.fork() == 0: os._exit(0) if os.fork() else os._exit(7)
if os.fork() == 0:
    os.setsid()
    print("lives", flush=True)
    import time; time.sleep(600)
sys.exit(3)
"""
    program = (
        PRELUDE
        + """
import psutil
code = boss.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
boss.end_leftovers(seconds=10)
print(json.dumps({"code": code, "left": [p.pid for p in psutil.Process().children(recursive=True)]}))
"""
    )
    assert result(in_a_process(program, child, tmp_path / "error.json")) == {"code": 3, "left": []}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_written_down_and_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    child = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(600)
"""
    program = (
        PRELUDE
        + """
boss.stop_file = Path(sys.argv[3])
code = boss.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
print(json.dumps({"code": code, "stop_file": boss.stop_file.exists(), "requested": boss.stop_requested_at is not None}))
"""
    )
    process = in_a_process(program, child, tmp_path / "error.json", tmp_path / "stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert result(process) == {"code": 75, "stop_file": True, "requested": True}


def test_a_stop_is_passed_on_though_its_file_cannot_be_written(tmp_path: Path) -> None:
    """The scratch folder is full, or was cleaned up: that must not kill the first process."""
    child = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(600)
"""
    program = (
        PRELUDE
        + """
boss.stop_file = Path(sys.argv[3])
print(json.dumps(boss.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))))
"""
    )
    process = in_a_process(program, child, tmp_path / "error.json", tmp_path / "gone/stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert result(process) == 75


def test_a_stop_before_the_child_reaches_it_too(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + """
os.kill(os.getpid(), signal.SIGTERM)
code = boss.run([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1]))
print(json.dumps(code))
"""
    )
    assert result(in_a_process(program, tmp_path / "error.json")) == -signal.SIGTERM


def test_what_ignores_the_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOP", "-14")  # a second of the margin is left
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    program = PRELUDE + "print(json.dumps(boss.run([sys.executable, '-c', sys.argv[1]], Path(sys.argv[2]))))"
    process = in_a_process(program, child, tmp_path / "error.json")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert result(process) == -signal.SIGKILL


def opt_ml(root: Path, **hyperparameters: str) -> Path:
    (root / "input/config").mkdir(parents=True)
    (root / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))
    jobs.photos(root / "input/data/train")
    return root


def test_a_wrong_hyperparameter_is_said_in_sagemakers_failure_file(tmp_path: Path) -> None:
    root = opt_ml(tmp_path / "ml", leraning_rate="1")
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    text = (root / "output/failure").read_text()
    assert text.startswith("ConfigError: ")
    assert "did you mean learning_rate?" in text
    assert "Traceback" not in job.out


@pytest.mark.parametrize("name", ["hyperparameters.json", "resourceconfig.json"])
def test_an_old_reason_does_not_survive_settings_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    root = opt_ml(tmp_path / "ml")
    (root / "input/config" / name).write_text("{")
    (root / "output").mkdir()
    (root / "output/failure").write_text("DataError: of the start before")
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    assert (root / "output/failure").read_text().startswith("ConfigError: ")


def test_photos_that_cannot_be_used_end_before_any_worker(tmp_path: Path) -> None:
    root = opt_ml(tmp_path / "ml")
    for path in (root / "input/data/train/dog").iterdir():
        path.unlink()
    with Job(tmp_path, root) as job:
        assert job.wait() == 2
    failure = (root / "output/failure").read_text()
    assert failure.startswith("DataError: dog: this class folder is empty")
    assert job.out.splitlines()[-1].startswith("DataError: dog: this class folder is empty")
    assert "Traceback" not in job.out
    (whole,) = root.rglob("failure.json")
    assert "Traceback" in json.loads(whole.read_text())["trace"]
    assert "starting workers" not in job.out


def test_the_failure_of_an_earlier_start_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    for how, code in (("data0", 2), ("work", 0)):
        with Job.with_flags(tmp_path, data, how=how) as job:
            assert job.wait() == code, job.out
        assert (job.failure is not None, (job.output / "failure.json").exists()) == (code != 0, code != 0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Job(tmp_path, "--data", tmp_path, "--model-dir", tmp_path / "file/model") as job:
        assert job.wait() == 2
    assert job.out.splitlines()[-1].startswith(f"ConfigError: cannot write {tmp_path}/file")


def test_a_folder_that_cannot_hold_event_files_is_named_at_the_door(tmp_path: Path) -> None:
    data = jobs.photos(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/tensorboard").touch()
    with Job.with_flags(tmp_path, data, "--output-dir", tmp_path / "out") as job:
        assert job.wait() == 2
    assert job.out.splitlines()[-1].startswith(f"ConfigError: cannot write {tmp_path}/out/tensorboard")


@pytest.mark.parametrize("name", ["model_dir", "output_dir", "checkpoint_dir"])
def test_a_folder_of_somebody_else_is_named_at_the_door(tmp_path: Path, name: str) -> None:
    program = """
import os, sys
from pathlib import Path
from containers.train import supervisor
from containers.train.config import TrainConfig
from containers.train.job import JobPaths, TrainingJob
root = Path(sys.argv[1])
root.chmod(0o777)
(root / sys.argv[2]).mkdir(mode=0o755)
os.setuid(10001)
paths = JobPaths(**{each: root / each for each in JobPaths.model_fields})
try:
    supervisor.prepare(TrainingJob(name="job", config=TrainConfig(), paths=paths, channels={}))
except Exception as error:
    print(f'"{type(error).__name__}: {error}"')
"""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        assert result(in_a_process(program, root, name)).startswith(
            f"ConfigError: cannot write {root / name} (Permission denied)"
        )
    finally:
        shutil.rmtree(root)


def test_bin_train_hands_its_arguments_on() -> None:
    train = Path("containers/train/bin/train").absolute()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [train, "--hepochs", "3"], capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 2
    assert "python -m containers.train: error" in done.stderr


def in_a_pid_namespace() -> list[str]:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    return command if works else []


@pytest.mark.skipif(not in_a_pid_namespace(), reason="this user may not make a PID namespace")
def test_as_pid_1_a_stop_is_not_lost(tmp_path: Path) -> None:
    """The kernel drops signals for which a PID 1 has no handler; and nobody else would reap the orphans."""
    program = (
        PRELUDE
        + """
assert os.getpid() == 1
print("ready", flush=True)
code = boss.run([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1]))
print(json.dumps(code))
"""
    )
    command = [*in_a_pid_namespace(), sys.executable, "-c", program, str(tmp_path / "error.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    [first] = psutil.Process(process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert result(process) == -signal.SIGTERM
