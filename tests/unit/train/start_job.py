"""Start a job as the front doors do, with the tests' worker: `start_job.py ROOT` is SageMaker's, anything else are flags."""

import os
import sys
from pathlib import Path

from containers.train import __main__ as flags
from containers.train import sagemaker, supervisor


def main() -> int:
    seconds = float(os.environ.get("TINY_STOP_SECONDS", "60"))
    worker = os.environ.get("TINY_WORKER", "tests.unit.train.tiny_worker")
    if len(sys.argv) == 2:
        root = Path(sys.argv[1])
        failure_file = root / "output/failure"
        read, stand_in = (lambda: sagemaker.read_job(root)), (lambda: sagemaker.stand_in(root))
        return supervisor.run(read, stand_in, failure_file=failure_file, worker=worker, stop_seconds=seconds)
    read, stand_in = (lambda: flags.read_job(sys.argv[1:])), (lambda: flags.stand_in(sys.argv[1:]))
    return supervisor.run(read, stand_in, advice=flags.serving_advice, worker=worker, stop_seconds=seconds)


if __name__ == "__main__":
    raise SystemExit(main())
