"""The first process of a training container: reads the job, checks the data, starts the launcher, answers for the exit code.

It never imports torch, so its signal handlers stand within a fraction of a second and it cannot die of what training dies of:

    supervisor (PID 1) ── preflight          looks at photos and machine, writes the dataset index
                       └─ launch ── worker   torch's elastic agent and, in sessions of their own, one process per GPU

A stop request (SIGTERM, SIGINT) creates `JobPaths.stop_file` and is passed on to whichever child runs (`first_process`).
Exit codes: 0 trained, or stopped on request with the checkpoint committed · 75 start it again, it resumes · else the code of
the error's class (`errors.py`), whose text is in the failure file.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from containers.core import logs
from containers.core.errors import ConfigError, Error
from containers.train import failure, own_process
from containers.train.errors import RESUMABLE, Interrupted
from containers.train.failure import Failure
from containers.train.first_process import STOP_SECONDS, FirstProcess
from containers.train.job import TrainingJob

log = logs.get(__name__)

WORKER = "containers.train.worker"
FAILURE_JSON = "failure.json"
STOPPED_SECONDS = 50.0
"""What a host that is asked to stop has to tell the others, of the 120 that SageMaker and a spot notice leave it."""
_MARGIN_SECONDS = 10.0
"""What that takes beyond: a process that imports torch."""


def run(
    read: Callable[[], TrainingJob],
    stand_in: Callable[[], TrainingJob],
    *,
    advice: Callable[[TrainingJob], dict[str, str]] = lambda _: {},
    failure_file: Path | None = None,
    worker: str = WORKER,
    stop_seconds: float = STOP_SECONDS,
) -> int:
    """Run the job that `read` returns and give the process's exit code. `failure_file` serves until the job names its own.

    `stand_in`: a job of the same name and hosts, for telling these where `read` fails. `advice`: fields for the last line of a
    job that has trained its model, on the host that has it.
    """
    this = FirstProcess(stop_seconds)
    own_process.adopt_orphans()
    logs.configure(host="unknown")
    try:
        if failure_file is not None:
            _forget(failure_file)  # also where the job cannot even be read
        job = read()
        prepare(job)
    except Exception as error:  # noqa: BLE001 - also what nobody thought of must reach the failure file
        why = _why(error)
        exit_code = _ended(why, failure_file, None, requested=False)
        _tell_of_unread(this, stand_in, why)
        return exit_code
    logs.configure(host=job.cluster.current_host)
    if len(job.cluster.hosts) > 1:
        os.environ[failure.HOST_VARIABLE] = job.cluster.current_host
    this.stop_file = job.paths.stop_file
    this.announce_stop()
    try:
        exit_code = _steps(this, job, [worker, str(stop_seconds)])
        if exit_code == 0 and this.stop_requested_at is None and job.cluster.node_rank == 0:
            log.info("trained", extra={"model_dir": str(job.paths.model_dir), **advice(job)})
        return exit_code
    except Exception as error:  # noqa: BLE001 - as above
        return _ended(_why(error), job.paths.failure_file, job.paths.output_dir, requested=False)
    finally:
        this.end_leftovers()
        shutil.rmtree(job.paths.scratch_dir, ignore_errors=True)


def _why(error: Exception) -> Failure:
    why = Failure.of(error, host=os.environ.get(failure.HOST_VARIABLE))
    if not isinstance(error, Error):
        log.error("an error that nobody thought of", extra={"trace": why.trace})
    return why


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


def _steps(this: FirstProcess, job: TrainingJob, launch: list[str]) -> int:
    job_file = str(job.paths.job_file)
    for module, arguments in (("preflight", [job_file]), ("launch", [job_file, *launch])):
        if this.stop_requested_at is not None:
            log.info("stopped before training began")
            return _left(this, job)
        error_file = job.paths.scratch_dir / f"{module}_error.json"
        code = this.run([sys.executable, "-u", "-m", f"containers.train.{module}", *arguments], error_file)
        requested = this.stop_requested_at is not None
        if code and requested and code < 0:
            log.info("stopped; the last committed checkpoint stands", extra={"step": module, "exit_code": code})
            return _left(this, job) if code == -signal.SIGTERM else RESUMABLE
        if code:
            why = failure.of_process(code, error_file, name=module)
            exit_code = _ended(why, job.paths.failure_file, job.paths.output_dir, requested=requested)
            heard = why.host not in (None, job.cluster.current_host)  # and so do the others
            if module == "preflight" and len(job.cluster.hosts) > 1 and not heard:
                _tell_others(this, job, error_file, code)
            return exit_code
    return 0


def _left(this: FirstProcess, job: TrainingJob) -> int:
    """Of a stop that came before this host could gather with the others: they must not wait for it. The launcher, once its
    handlers stand and it gathers, does not end by the signal and tells them itself.
    """
    if len(job.cluster.hosts) > 1:
        error_file = job.paths.scratch_dir / "stopped.json"
        why = Interrupted("asked to stop before it had gathered with the other hosts; nothing was lost: start the job again")
        failure.write(Failure.of(why, host=job.cluster.current_host), error_file)
        _tell_others(this, job, error_file, RESUMABLE)
    return RESUMABLE


def _tell_others(this: FirstProcess, job: TrainingJob, error_file: Path, code: int) -> None:
    tell = [sys.executable, "-u", "-m", "containers.train.farewell", str(job.paths.job_file), str(error_file), str(code)]
    report = job.paths.scratch_dir / "farewell_error.json"
    if this.stop_requested_at is None:
        this.run(tell, report)
    else:
        this.run([*tell, str(STOPPED_SECONDS)], report, last_seconds=STOPPED_SECONDS + _MARGIN_SECONDS)


def _tell_of_unread(this: FirstProcess, stand_in: Callable[[], TrainingJob], why: Failure) -> None:
    """Of a job that cannot be read, as far as its hosts can."""
    try:
        job = stand_in()
        if len(job.cluster.hosts) == 1 or this.stop_requested_at is not None:
            return
        job.write()
        error_file = job.paths.scratch_dir / "read_error.json"
        failure.write(why.model_copy(update={"host": job.cluster.current_host}), error_file)
    except Exception as error:  # noqa: BLE001 - what `read` could not read, this cannot either
        log.warning("other hosts, if there are any, could not be told", extra={"reason": str(error)})
        return
    try:
        _tell_others(this, job, error_file, why.exit_code)
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
