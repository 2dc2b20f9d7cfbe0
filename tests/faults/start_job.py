"""`python -m containers.train` with the worker that tells what it learns from."""

import sys

from containers.train import __main__ as flags
from containers.train import supervisor

if __name__ == "__main__":
    raise SystemExit(supervisor.run(lambda: flags.read_job(sys.argv[1:]), worker="tests.faults.recording_worker"))
