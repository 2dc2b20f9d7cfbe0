"""Causes are told from echoes, fit the failure file, and hold no secrets."""

from pathlib import Path

import pytest
import torch.distributed as dist

from containers.core.errors import ConfigError
from containers.train import failure
from containers.train.errors import DataError, Interrupted, NonFiniteLoss, PeerLost
from containers.train.failure import FAILURE_BYTES, Category, Failure

NOT_MET = "retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: wait timeout"
"""Of a rank whose rank 0 did not come: torch 2.10, ProcessGroupNCCL.cpp."""


def a_failure(message: str = "no", category: Category = Category.OWN, moment: float = 0.0, **fields: object) -> Failure:
    given = {"kind": "ValueError", "message": message, "exit_code": 1, "category": category, "moment": moment}
    return Failure.model_validate(given | fields)


@pytest.mark.parametrize(
    ("error", "kind", "category", "exit_code"),
    [
        (ValueError("class folder 'x' is empty"), "ValueError", Category.OWN, 1),
        (DataError("a.jpg"), "DataError", Category.OWN, 2),
        (ConfigError("epochs"), "ConfigError", Category.OWN, 2),
        (NonFiniteLoss("nan at step 3"), "NonFiniteLoss", Category.OWN, 1),
        (Interrupted("stopped"), "Interrupted", Category.PEER, 75),
        (PeerLost("gone"), "PeerLost", Category.PEER, 75),
        (RuntimeError("[/pytorch/gloo/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:1"), "PeerLost", Category.PEER, 75),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), "PeerLost", Category.PEER, 75),
        (dist.DistBackendError("NCCL communicator was aborted on rank 1. "), "PeerLost", Category.PEER, 75),
        (dist.DistBackendError("ncclSystemError: Connection closed by remote peer algo-2"), "PeerLost", Category.PEER, 75),
        (dist.DistBackendError(f"[1] is setting up NCCL communicator and {NOT_MET}"), "PeerLost", Category.PEER, 75),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), "DistBackendError", Category.OWN, 1),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "RuntimeError", Category.OWN, 1),
        (ValueError("the user wrote: connection closed by peer"), "ValueError", Category.OWN, 1),
    ],
)
def test_an_error_is_classified(error: Exception, kind: str, category: Category, exit_code: int) -> None:
    made = Failure.of(error)
    assert (made.kind, made.category, made.exit_code) == (kind, category, exit_code)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), RuntimeError("broken pipe")])
def test_a_rank_without_peers_has_lost_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Failure.of(error).kind == "PeerLost"
    monkeypatch.setenv("WORLD_SIZE", "1")
    made = Failure.of(error)
    assert (made.kind, made.category, made.exit_code) == (type(error).__name__, Category.OWN, 1)


@pytest.mark.parametrize(
    ("exit_code", "kind", "category", "words", "code"),
    [
        (-9, "WorkerFailed", Category.SIGNAL, "memory ran out", 1),
        (-7, "WorkerFailed", Category.SIGNAL, "/dev/shm", 1),
        (-11, "WorkerFailed", Category.SIGNAL, "native code", 1),
        (-34, "WorkerFailed", Category.SIGNAL, "was killed", 1),
        (-15, "WorkerFailed", Category.ECHO, "another rank failed", 1),
        (3, "WorkerFailed", Category.SILENT, "exit code 3", 1),
        (75, "Uncommitted", Category.PEER, "could not write why", 75),
    ],
)
def test_a_silent_process_is_judged_by_its_exit(
    tmp_path: Path, exit_code: int, kind: str, category: Category, words: str, code: int
) -> None:
    made = failure.of_process(exit_code, tmp_path / "none.json", rank=1, host="algo-2")
    assert (made.kind, made.category, made.exit_code) == (kind, category, code)
    assert words in made.message
    assert made.where == " [rank 1 host algo-2]"


def test_the_cause_is_the_first_of_the_most_telling() -> None:
    echo = a_failure("told to end", Category.ECHO, 0)
    peer = a_failure("connection closed", Category.PEER, 1)
    killed = a_failure("killed", Category.SIGNAL, 2)
    later = a_failure("second", Category.OWN, 4)
    first = a_failure("first", Category.OWN, 3)
    assert failure.root_cause([echo, peer, killed, later, first]) is first
    assert failure.root_cause([echo, peer, killed]) is killed
    assert failure.root_cause([echo, peer]) is peer


def test_a_report_survives_the_way_to_the_launcher_and_the_first_stands(tmp_path: Path) -> None:
    target = tmp_path / "error.json"
    environ = {failure.ERROR_FILE_VARIABLE: str(target), "RANK": "3", failure.HOST_VARIABLE: "algo-2"}
    failure.report(DataError("photo ü cannot be used"), environ)
    failure.report(ValueError("later"), environ)
    told = failure.of_process(1, target)
    assert told.headline == "DataError: photo ü cannot be used [rank 3 host algo-2]"
    assert told.exit_code == 2


def test_torchs_agent_can_read_a_report(tmp_path: Path) -> None:
    errors = pytest.importorskip("torch.distributed.elastic.multiprocessing.errors")
    target = tmp_path / "error.json"
    failure.write(Failure.of(ValueError("x is empty")), target)
    read = errors.ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(target))
    assert read.message["message"] == "ValueError: x is empty"
    assert read.timestamp > 0


def test_without_a_launcher_nothing_is_written() -> None:
    failure.report(ValueError("x"), {})


@pytest.mark.parametrize("letter", ["x", "é", "語", "🐕"])
def test_the_failure_file_fits_and_is_utf8(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "output/failure"
    failure.write_failure_file(a_failure(letter * 3000, rank=1, host="algo-2", frames="  worker.py:1 main: go()"), path)
    data = path.read_bytes()
    assert FAILURE_BYTES - 4 <= len(data) <= FAILURE_BYTES
    assert data.decode("utf-8").startswith(f"ValueError: {letter * 20}")
    assert data.decode("utf-8").endswith("… [rank 1 host algo-2]")


def test_lone_surrogates_do_not_break_the_file(tmp_path: Path) -> None:
    failure.write_failure_file(a_failure("file \udcff.jpg"), tmp_path / "failure")
    assert (tmp_path / "failure").read_text(encoding="utf-8") == "ValueError: file ?.jpg"


def test_frames_follow_as_far_as_there_is_room() -> None:
    text = a_failure("short", frames="  a.py:1 f: g()\n" * 200).text()
    assert text.startswith("ValueError: short\n  a.py:1 f: g()\n")
    assert len(text.encode()) <= FAILURE_BYTES


def test_a_failure_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "failure"
    failure.write_failure_file(a_failure("first"), path)
    failure.write_failure_file(a_failure("second"), path)
    assert path.read_text() == "ValueError: first"


def test_secrets_of_the_environment_are_not_repeated() -> None:
    environ = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "HF_TOKEN": "hf_abcdefgh", "MY_TOKEN": "x", "HOME": "/home/someone"}
    text = failure.redact("denied for wJalrXUtnFEMI and hf_abcdefgh in /home/someone x", environ)
    assert text == "denied for <AWS_SECRET_ACCESS_KEY> and <HF_TOKEN> in /home/someone x"
