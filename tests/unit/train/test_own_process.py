"""How a process of ours ends: what is reported, logged, and said by the exit code."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.core.errors import ConfigError
from containers.train import failure, own_process
from containers.train.errors import DataError, Interrupted, NonFiniteLoss
from tests.support import full_disk


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    own_process.end_with_parent(0)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("error", "code"), [(Interrupted("stopped"), 75), (DataError("a.jpg"), 2)])
def test_a_reason_that_cannot_be_written_does_not_change_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, code: int
) -> None:
    monkeypatch.setenv(failure.ERROR_FILE_VARIABLE, str(tmp_path / "error.json"))

    def broken() -> int:
        raise error

    with full_disk.files_of_at_most(0):
        assert own_process.guarded(broken) == code
    assert "the reason could not be written" in caplog.messages
    assert not list(tmp_path.iterdir())


def test_guarded_reports_and_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "error.json"
    monkeypatch.setenv(failure.ERROR_FILE_VARIABLE, str(target))
    monkeypatch.setenv("KENNEL_TEST_SECRET", "correct horse")

    def broken() -> int:
        raise DataError("key correct horse")

    assert own_process.guarded(broken) == 2
    assert own_process.guarded(lambda: 0) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert json.loads(target.read_text())["kennel"]["message"] == "key <KENNEL_TEST_SECRET>"
    assert "correct horse" not in target.read_text()


@pytest.mark.parametrize(
    ("error", "traced"),
    [(DataError("a.jpg"), False), (ConfigError("epochs"), False), (NonFiniteLoss("nan"), True), (ValueError("ours"), True)],
)
def test_a_trace_is_logged_for_whoever_mends_code_not_for_whoever_mends_photos(
    caplog: pytest.LogCaptureFixture, error: Exception, traced: bool
) -> None:
    def broken() -> int:
        raise error

    own_process.guarded(broken)
    (line,) = caplog.records
    assert (line.getMessage(), line.__dict__["reason"]) == ("failed", str(error))
    assert hasattr(line, "trace") is traced
    assert "Traceback" in line.__dict__.get("trace", "Traceback")


LATE = """
import os, sys, time
from containers.train import own_process
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
os.environ[own_process.PARENT_VARIABLE] = str(parent if sys.argv[1] == "gone" else os.getppid())
own_process.end_with_parent()
print("lives on", own_process.PARENT_VARIABLE in os.environ, flush=True)
"""


@pytest.mark.parametrize(("parent", "said"), [("gone", ""), ("there", "lives on False\n")])
def test_a_process_whose_parent_died_before_it_could_ask_ends_too(parent: str, said: str) -> None:
    """And does not hand the name of its parent on to its own children."""
    done = subprocess.run([sys.executable, "-c", LATE, parent], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout == said  # the pipe closes with the last that holds it
