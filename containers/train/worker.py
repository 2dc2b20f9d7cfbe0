"""One rank of a training job: `python -m containers.train.worker JOB_FILE`, started by `launch` (or by torchrun).

Exit code 0: done; 75: interrupted, and what was done is kept in the checkpoint; otherwise the error's own.
"""

import signal
import sys
from pathlib import Path

from containers.train import failure


def main(job_file: Path) -> int:
    """Raises Interrupted, and whatever else ends a run early."""
    from containers.train import session  # torch: seconds, in which a request to stop must wait and not kill

    return session.train(job_file)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # until `StopRequest.listen`
    raise SystemExit(failure.guarded(lambda: main(Path(sys.argv[1]))))
