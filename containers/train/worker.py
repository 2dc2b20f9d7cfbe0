"""One rank of a training job: `python -m containers.train.worker JOB_FILE`, started by `launch` (or by torchrun).

Exit code 0: done; 75: interrupted, and what was done is kept in the checkpoint; otherwise the error's own.
"""

import multiprocessing
import signal
import sys
from pathlib import Path

from containers.train import own_process


def main(job_file: Path) -> int:
    """Raises Interrupted, and whatever else ends a run early."""
    from containers.train import session  # torch: seconds, in which a request to stop must wait and not kill

    try:
        return session.train(job_file)
    finally:
        end_loaders()


def end_loaders() -> None:
    """Kill the loader processes that are left. They ignore SIGTERM, by which Python ends its children before it waits for
    them: where anything still refers to a loader at exit, a rank that has written everything would never end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call their end an error
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # until `StopRequest.listen`
    own_process.leave(own_process.guarded(lambda: main(Path(sys.argv[1]))))
