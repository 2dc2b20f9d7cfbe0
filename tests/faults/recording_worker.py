"""The worker, telling what it learns from (`record`). KENNEL_FAULTS_RECORD names the folder."""

import os
import signal
import sys
from pathlib import Path

from containers.train import own_process, worker


def main() -> int:
    from tests.faults import record

    record.install(Path(os.environ["KENNEL_FAULTS_RECORD"]))
    return worker.main(Path(sys.argv[1]))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # as the worker itself does
    raise SystemExit(own_process.guarded(main))
