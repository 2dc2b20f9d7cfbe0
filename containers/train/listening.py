"""While a host checks its photos it listens: it must not gather in vain, for half an hour, after a job that another host ended.

    python -m containers.train.listening JOB_FILE

Runs beside preflight, on every host but the first of several. It loads torch once there is a store to listen at: the first host
keeps one while it gathers, and while it tells why it cannot (`farewell`). What is told there, or that a first host that waited
for this one is gone, becomes preflight's own report, and preflight is ended. The file SEEN says that the first host has waited:
once preflight is over, `launch` need not wait long for it to come.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from containers.core import logs
from containers.train import failure, network, own_process
from containers.train.job import TrainingJob

SEEN = "first_host_seen"
GONE_SECONDS = 10.0
"""How long a first host that was there before is looked for."""
_AGAIN_SECONDS = 1.0
_log = logs.get("containers.train.listening")


@contextlib.contextmanager
def beside(job: TrainingJob) -> Iterator[None]:
    """Listen as long as this lasts. The process may end in its middle, by SIGTERM."""
    if job.cluster.node_rank == 0:
        yield
        return
    command = [sys.executable, "-u", "-m", __name__, str(job.paths.job_file)]
    environ = os.environ | {own_process.PARENT_VARIABLE: str(os.getpid())}
    with subprocess.Popen(command, env=environ) as ear:  # noqa: S603
        try:
            yield
        finally:
            ear.kill()


def patience(job: TrainingJob, seconds: float) -> float:
    """How long to wait for the first host, which may have `seconds` to come."""
    return GONE_SECONDS if (job.paths.scratch_dir / SEEN).exists() else seconds


def main(arguments: list[str]) -> int:
    job, checking = TrainingJob.read(Path(arguments[0])), os.getppid()
    logs.configure(host=job.cluster.current_host)
    own_process.end_with_parent(signal.SIGKILL)
    report = Path(os.environ[failure.ERROR_FILE_VARIABLE])
    while True:
        if network.leader_answers(job.cluster):
            from containers.train import farewell  # torch: where there is something to hear

            if farewell.listen(job, lambda: _seen(job), lambda why: failure.write(why, report)):
                os.kill(checking, signal.SIGTERM)
                return 0
        time.sleep(_AGAIN_SECONDS)


def _seen(job: TrainingJob) -> None:
    (job.paths.scratch_dir / SEEN).touch()
    _log.info("the first host gathers already", extra={"peer": job.cluster.rendezvous_host})


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
