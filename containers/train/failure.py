"""Why a job ended: each rank reports its own error, the launcher finds the one that came first.

A worker's `main` runs inside `own_process.guarded`, which has a `Failure` written where the launcher told it to
(TORCHELASTIC_ERROR_FILE).
A rank that was killed writes nothing; `of_process` then reads its exit status. `root_cause` tells causes from echoes: when one
rank fails, the others fail too, with "connection closed by peer", and sometimes a second earlier by the clock.
Torch-free, so that PID 1 can use it.
"""

import contextlib
import enum
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from containers.core import logs, redaction
from containers.core.errors import Error
from containers.train.errors import RESUMABLE, Interrupted, NotBegun, PeerLost, Uncommitted, WorkerFailed

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
HOST_VARIABLE = "KENNEL_HOST"
FAILURE_BYTES = 1024
"""Of FailureReason (SageMaker API reference, DescribeTrainingJob)."""

_NETWORK_ERRORS = {
    "RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError", "TimeoutError",
    "ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError", "RendezvousConnectionError",
}  # fmt: skip
_NETWORK_WORDS = (
    "connection closed by peer", "connection reset by peer", "connection refused", "connection was likely closed",
    "broken pipe", "remote process exited", "remote error", "timed out waiting", "socket timeout", "socket closed",
    "collective operation timeout", "failed to connect", "connect timeout", "connectfullmesh failed",
    "failed to recv", "failed to send", "application timeout caused pair",
    "no route to host", "connection to the c10d store has failed",
    "closed by remote peer", "communicator was aborted", "retrieving nccluniqueid from",
)  # fmt: skip


class Category(enum.IntEnum):
    """Smaller is more likely to be the cause of the others."""

    OWN = 0
    SIGNAL = 1
    SILENT = 2
    PEER = 3  # and interruption: whichever came first
    ECHO = 4


class Failure(BaseModel):
    """One rank's end. `frames` are the innermost lines of our own code; `moment` is seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str
    exit_code: int
    category: Category
    moment: float
    rank: int | None = None
    host: str | None = None
    frames: str = ""
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException, *, rank: int | None = None, host: str | None = None) -> Self:
        kind = error.kind if isinstance(error, Error) else type(error).__name__
        message = redact(str(error) or "no message", os.environ)
        category = _category(error, kind, message)
        exit_code = error.exit_code if isinstance(error, Error) else 1
        if category is Category.PEER and not isinstance(error, Interrupted):
            kind, exit_code = PeerLost.__name__, PeerLost.exit_code
        trace = redact("".join(traceback.format_exception(error)), os.environ)
        return cls(
            kind=kind, message=message, exit_code=exit_code, category=category, moment=time.time(),
            rank=rank, host=host, frames=redact(_own_frames(error), os.environ), trace=trace,
        )  # fmt: skip

    @property
    def is_stop(self) -> bool:
        """It ended because it was asked to, whether or not there is a checkpoint of that moment."""
        return self.kind in (Interrupted.__name__, Uncommitted.__name__, NotBegun.__name__)

    @property
    def is_lost_peer(self) -> bool:
        """And not an interruption, which needs no explanation by others."""
        return self.category is Category.PEER and not self.is_stop

    @property
    def is_abort(self) -> bool:
        """As NCCL ends a rank whose peer is lost, where it notices before gloo's next message; or native code of itself."""
        return self.category is Category.SIGNAL and signal.SIGABRT.name in self.message

    @property
    def where(self) -> str:
        parts = [f"rank {self.rank}"] * (self.rank is not None) + [f"host {self.host}"] * (self.host is not None)
        return f" [{' '.join(parts)}]" if parts else ""

    @property
    def headline(self) -> str:
        return f"{self.kind}: {self.message}{self.where}"

    def text(self) -> str:
        """The failure file: kind, message, place, then frames of our code; at most FAILURE_BYTES bytes of UTF-8."""
        room = FAILURE_BYTES - len(f"{self.kind}: {self.where}".encode())
        first = f"{self.kind}: {_fit(self.message, room)}{self.where}"
        room = FAILURE_BYTES - len(first.encode()) - 1
        return f"{first}\n{_fit(self.frames, room)}" if self.frames and room > len("…".encode()) else first


def _fit(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, cut between characters and marked with an ellipsis where it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    mark = "…"
    return data[: limit - len(mark.encode())].decode("utf-8", "ignore") + mark


def _category(error: BaseException, kind: str, message: str) -> Category:
    if isinstance(error, (PeerLost, Interrupted)):
        return Category.PEER
    lower = message.lower()
    if os.environ.get("WORLD_SIZE") == "1":  # of a rank that has no peers: what it lost is something else
        return Category.OWN
    if kind in _NETWORK_ERRORS and any(words in lower for words in _NETWORK_WORDS):
        return Category.PEER
    return Category.OWN


def _own_frames(error: BaseException, limit: int = 4) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    return "\n".join(f"  {Path(f.filename).name}:{f.lineno} {f.name}: {f.line}" for f in frames[-limit:])


def redact(text: str, environ: Mapping[str, str]) -> str:
    """`text` without the values of environment variables that are named like secrets."""
    return redaction.without(text, redaction.secrets(environ))


def report(error: BaseException, environ: Mapping[str, str] = os.environ) -> Failure:
    """Leave this process's error for the one that started it, and return it as it is left.

    Writes nothing where nobody asked for it, and never replaces an earlier report.
    """
    rank, target = environ.get("RANK"), environ.get(ERROR_FILE_VARIABLE)
    made = Failure.of(error, rank=None if rank is None else int(rank), host=environ.get(HOST_VARIABLE))
    if target and not Path(target).exists():
        write(made, Path(target))
    return made


def write(failure: Failure, target: Path) -> None:
    """`failure` as `of_process` reads it, by rename.

    Where the disk refuses, the exit code is all that is left, and an error about the error must not replace it.

    Beside ours, the file has the two fields that torch's elastic agent insists on (torch 2.10, ProcessFailure).
    """
    elastic = {"message": failure.headline, "extraInfo": {"timestamp": str(int(failure.moment))}}
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.write_text(json.dumps({"message": elastic, "kennel": failure.model_dump(mode="json")}), encoding="utf-8")
        temporary.rename(target)
    except OSError as error:
        logs.get(__name__).warning("the reason could not be written", extra={"file": str(target), "reason": str(error)})
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def of_process(
    exit_code: int, error_file: Path, *, name: str = "", rank: int | None = None, host: str | None = None
) -> Failure:
    """What is known of a process that just ended with `exit_code` (negative: a signal, as in subprocess): its own report,
    else what the exit code says of `name`.
    """
    try:
        return Failure.model_validate(json.loads(error_file.read_text(encoding="utf-8"))["kennel"])
    except (OSError, ValueError, KeyError):
        kind, message, category, code = _from_status(exit_code)
    message = f"{name} {message}".lstrip()
    return Failure(kind=kind, message=message, exit_code=code, category=category, moment=time.time(), rank=rank, host=host)


def _from_status(exit_code: int) -> tuple[str, str, Category, int]:
    if exit_code == RESUMABLE:
        untold = "ended early and could not write why (is its scratch folder full?); start the job again, it resumes"
        return Uncommitted.__name__, untold, Category.PEER, RESUMABLE
    if exit_code >= 0:
        message = f"ended with exit code {exit_code} and without a word; its last log lines say more"
        return WorkerFailed.__name__, message, Category.SILENT, WorkerFailed.exit_code
    number = -exit_code
    name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    if number == signal.SIGTERM:
        return WorkerFailed.__name__, "was told to end while another rank failed", Category.ECHO, WorkerFailed.exit_code
    remedies = {
        signal.SIGKILL: "most often because memory ran out: lower micro_batch_size or num_workers, or use a larger host",
        signal.SIGBUS: "most often because /dev/shm is full: set num_workers to 0 or start the container with --shm-size 2g",
        signal.SIGSEGV: "a crash in native code; its last log lines say where",
        signal.SIGABRT: "native code gave up; after a lost peer that is the communication library, else its log lines say why",
    }
    remedy = remedies.get(signal.Signals(number), "by someone outside this job") if number in signal.valid_signals() else ""
    return WorkerFailed.__name__, f"was killed ({name}), {remedy}", Category.SIGNAL, WorkerFailed.exit_code


def root_cause(failures: Iterable[Failure]) -> Failure:
    """The first failure of the most telling category. Raises ValueError when there is none."""
    return min(failures, key=lambda failure: (failure.category, failure.moment))


def write_failure_file(failure: Failure, path: Path) -> None:
    """SageMaker shows its beginning as FailureReason. Never replaces one: the first cause stands."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(failure.text())
    except FileExistsError:
        pass
    except OSError as error:
        print(f"cannot write {path}: {error}", file=sys.stderr)  # noqa: T201 - the reason itself is in the log already
