"""Signals, orphans, leftovers. Each test is a process of its own, since it must be somebody's PID 1."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.unit.train.jobs import in_a_process, result

PRELUDE = """
import json, os, signal, sys
from pathlib import Path
from containers.train import first_process, own_process
boss = first_process.FirstProcess(stop_seconds=float(os.environ.get("STOP", "30")))
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


STOPPABLE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(600)
"""
"""A child that ends with 75 when it is asked to stop."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_written_down_and_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        PRELUDE
        + """
boss.stop_file = Path(sys.argv[3])
code = boss.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
print(json.dumps({"code": code, "stop_file": boss.stop_file.exists(), "requested": boss.stop_requested_at is not None}))
"""
    )
    process = in_a_process(program, STOPPABLE, tmp_path / "error.json", tmp_path / "stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert result(process) == {"code": 75, "stop_file": True, "requested": True}


def test_a_stop_is_passed_on_though_its_file_cannot_be_written(tmp_path: Path) -> None:
    """The scratch folder is full, or was cleaned up: that must not kill the first process."""
    program = (
        PRELUDE
        + """
boss.stop_file = Path(sys.argv[3])
print(json.dumps(boss.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))))
"""
    )
    process = in_a_process(program, STOPPABLE, tmp_path / "error.json", tmp_path / "gone/stop")
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


def test_its_children_do_not_inherit_the_signals_that_the_front_door_blocked(tmp_path: Path) -> None:
    blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))"
    child = "import signal, sys; sys.exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    program = blocked + PRELUDE + "print(json.dumps(boss.run([sys.executable, '-c', sys.argv[1]], Path(sys.argv[2]))))"
    assert result(in_a_process(program, child, tmp_path / "error.json")) == 0


def test_what_is_left_to_do_after_a_stop_hears_of_none_and_has_its_own_time(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + """
os.kill(os.getpid(), signal.SIGTERM)
tell = [sys.executable, "-c", "import os, signal; os.kill(os.getppid(), signal.SIGTERM); import time; time.sleep(0.5)"]
told = boss.run(tell, Path(sys.argv[1]), last_seconds=60)
late = boss.run([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1]), last_seconds=0.5)
print(json.dumps([told, late]))
"""
    )
    assert result(in_a_process(program, tmp_path / "error.json")) == [0, -signal.SIGKILL]


def test_who_presses_ctrl_c_once_more_does_not_wait_for_what_is_left_to_do(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + """
os.kill(os.getpid(), signal.SIGINT)
press = [sys.executable, "-c", "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"]
print(json.dumps(boss.run(press, Path(sys.argv[1]), last_seconds=300)))
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
