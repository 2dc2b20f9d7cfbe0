"""The first process of a training container: reads the job, checks the data, starts the launcher, answers for the exit code.

It never imports torch, so its signal handlers stand within a fraction of a second and it cannot die of what training dies of:

    supervisor (PID 1) ── preflight          looks at photos and machine, writes the dataset index
                       └─ launch ── worker   torch's elastic agent and, in sessions of their own, one process per GPU

A stop request (SIGTERM, SIGINT) creates `JobPaths.stop_file` and is passed on to whichever child runs. Orphans are reaped.
Exit codes: 0 trained, or stopped on request with the checkpoint committed · 75 start it again, it resumes · else the code of
the error's class (`errors.py`), whose text is in the failure file.
"""

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

from containers.core import logs
from containers.core.errors import ConfigError, Error
from containers.train import failure, own_process
from containers.train.errors import RESUMABLE
from containers.train.failure import Failure
from containers.train.job import TrainingJob

log = logs.get(__name__)

WORKER = "containers.train.worker"
FAILURE_JSON = "failure.json"
STOP_SECONDS = 90.0
"""What workers have from the stop request on; SageMaker kills everything after 120 (StopTrainingJob)."""
_MARGIN_SECONDS = 15.0
"""What the launcher has beyond that, to kill workers and say so."""
LEFTOVER_SECONDS = 20.0


class Supervisor:
    """Runs one child at a time and is ready for signals from the moment it exists (main thread only)."""

    def __init__(self, stop_seconds: float = STOP_SECONDS) -> None:
        self.stop_requested_at: float | None = None
        self.stop_file: Path | None = None
        self._stop_seconds = stop_seconds + _MARGIN_SECONDS
        self._child: int | None = None
        self._signal: signal.Signals | None = None
        self._unwritten: OSError | None = None
        self._wake, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, however empty, is what makes the wake-up pipe readable
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Logs nothing: it may have interrupted a line that is being written."""
        if self.stop_requested_at is None:
            self.stop_requested_at = time.monotonic()
            self._signal = signal.Signals(number)
        self.announce_stop()
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)

    def announce_stop(self) -> None:
        """Create the stop file, where one is known and a stop was requested."""
        if self.stop_file is not None and self.stop_requested_at is not None:
            try:
                self.stop_file.touch()
            except OSError as error:  # a full disk, or somebody cleans up TMPDIR; the signal is passed on all the same
                self._unwritten = error

    def run(self, command: list[str], error_file: Path) -> int:
        """Run `command` to its end and return its exit code (negative: a signal's number), reaping every orphan meanwhile.

        It leads a session of its own, so that Ctrl-C reaches it through us only. Killed a while after a stop request.
        """
        environ = os.environ | {failure.ERROR_FILE_VARIABLE: str(error_file)}
        self._child = os.posix_spawn(command[0], command, environ, setsid=True)
        if self.stop_requested_at is not None:  # it came while the child was being started
            os.kill(self._child, signal.SIGTERM)
        try:
            while (code := self._reap()) is None:
                wait = None
                if self.stop_requested_at is not None:
                    wait = self.stop_requested_at + self._stop_seconds - time.monotonic()
                    if wait <= 0:
                        log.warning("killing what did not stop in time", extra={"seconds": self._stop_seconds})
                        os.kill(self._child, signal.SIGKILL)
                        wait = 1.0
                select.select([self._wake], [], [], wait)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                if self._signal is not None:
                    log.info("stop requested", extra={"signal": self._signal.name})
                    self._signal = None
                    if self._unwritten is not None:
                        log.warning("the stop file cannot be written", extra={"reason": str(self._unwritten)})
        finally:
            self._child = None
        return code

    def _reap(self) -> int | None:
        """Collect every child that has ended; the exit code of the one that matters, None while it runs."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if pid == 0:
                return code
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)

    def end_leftovers(self, seconds: float = LEFTOVER_SECONDS) -> None:
        """Stop, then kill, what a dead child left behind: two runs must never write the same checkpoints."""
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=seconds)
        for process in alive:
            log.warning("killing a leftover process", extra={"pid": process.pid})
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self._reap()


def run(
    read: Callable[[], TrainingJob],
    stand_in: Callable[[], TrainingJob],
    *,
    failure_file: Path | None = None,
    worker: str = WORKER,
    stop_seconds: float = STOP_SECONDS,
) -> int:
    """Run the job that `read` returns and give the process's exit code. `failure_file` serves until the job names its own.

    `stand_in`: a job of the same name and hosts, for telling these where `read` fails.
    """
    supervisor = Supervisor(stop_seconds)
    own_process.adopt_orphans()
    logs.configure(host="unknown")
    try:
        if failure_file is not None:
            _forget(failure_file)  # also where the job cannot even be read
        job = read()
        prepare(job)
    except Error as error:
        why = Failure.of(error)
        exit_code = _ended(why, failure_file, None, requested=False)
        _tell_of_unread(supervisor, stand_in, why)
        return exit_code
    logs.configure(host=job.cluster.current_host)
    if len(job.cluster.hosts) > 1:
        os.environ[failure.HOST_VARIABLE] = job.cluster.current_host
    supervisor.stop_file = job.paths.stop_file
    supervisor.announce_stop()
    try:
        return _steps(supervisor, job, [worker, str(stop_seconds)])
    finally:
        supervisor.end_leftovers()
        shutil.rmtree(job.paths.scratch_dir, ignore_errors=True)


def prepare(job: TrainingJob) -> None:
    """Make the job's folders and an empty scratch folder: a stop file of an earlier run must not stop this one, nor its failure
    be taken for this one's.

    Raises ConfigError where they cannot be written.
    """
    shutil.rmtree(job.paths.scratch_dir, ignore_errors=True)
    try:
        paths = job.paths
        for folder in (paths.scratch_dir, paths.model_dir, paths.output_dir, paths.tensorboard_dir, paths.checkpoint_dir):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        _forget(job.paths.failure_file, job.paths.output_dir / FAILURE_JSON)
        job.write()
    except OSError as error:
        raise _cannot_write(error) from error


def _forget(*earlier: Path) -> None:
    try:
        for told in earlier:
            told.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(error) from error


def _cannot_write(error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {error.filename} ({error.strerror}): choose a folder that this user may write")


def _steps(supervisor: Supervisor, job: TrainingJob, launch: list[str]) -> int:
    job_file = str(job.paths.job_file)
    for module, arguments in (("preflight", [job_file]), ("launch", [job_file, *launch])):
        if supervisor.stop_requested_at is not None:
            log.info("stopped before training began")
            return RESUMABLE
        error_file = job.paths.scratch_dir / f"{module}_error.json"
        code = supervisor.run([sys.executable, "-u", "-m", f"containers.train.{module}", *arguments], error_file)
        requested = supervisor.stop_requested_at is not None
        if code and requested and code < 0:
            log.info("stopped; the last committed checkpoint stands", extra={"step": module, "exit_code": code})
            return RESUMABLE
        if code:
            why = failure.of_process(code, error_file, name=module)
            exit_code = _ended(why, job.paths.failure_file, job.paths.output_dir, requested=requested)
            if module == "preflight" and len(job.cluster.hosts) > 1 and not requested:
                _tell_others(supervisor, job, error_file, code)
            return exit_code
    return 0


def _tell_others(supervisor: Supervisor, job: TrainingJob, error_file: Path, code: int) -> None:
    tell = [sys.executable, "-u", "-m", "containers.train.farewell", str(job.paths.job_file), str(error_file), str(code)]
    supervisor.run(tell, job.paths.scratch_dir / "farewell_error.json")


def _tell_of_unread(supervisor: Supervisor, stand_in: Callable[[], TrainingJob], why: Failure) -> None:
    """Of a job that cannot be read, as far as its hosts can."""
    try:
        job = stand_in()
        if len(job.cluster.hosts) == 1 or supervisor.stop_requested_at is not None:
            return
        job.write()
        error_file = job.paths.scratch_dir / "read_error.json"
        failure.write(why.model_copy(update={"host": job.cluster.current_host}), error_file)
    except (Error, OSError) as error:
        log.warning("other hosts, if there are any, could not be told", extra={"reason": str(error)})
        return
    try:
        _tell_others(supervisor, job, error_file, why.exit_code)
    finally:
        shutil.rmtree(job.paths.scratch_dir, ignore_errors=True)


def _ended(why: Failure, failure_file: Path | None, output_dir: Path | None, *, requested: bool) -> int:
    """Say why, in the log, to people, and in the files SageMaker and programs read; return the exit code."""
    if requested and why.exit_code == RESUMABLE:
        log.info("stopped on request", extra={"reason": why.message})
        return why.exit_code
    log.error("job failed", extra={"kind": why.kind, "reason": why.message, "rank": why.rank, "failed_host": why.host})
    print(f"{why.kind}: {why.message}", file=sys.stderr, flush=True)  # noqa: T201 - for people; the log has it as JSON
    if requested:
        return why.exit_code
    if failure_file is not None:
        failure.write_failure_file(why, failure_file)
    if output_dir is not None:
        with contextlib.suppress(OSError):
            (output_dir / FAILURE_JSON).write_text(json.dumps(why.model_dump(mode="json"), indent=2), encoding="utf-8")
    return why.exit_code
