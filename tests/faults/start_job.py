"""`python -m containers.train` with the worker that tells what it learns from."""

import sys

from containers.train import __main__ as flags
from containers.train import supervisor

if __name__ == "__main__":
    given = sys.argv[1:]
    read, stand_in = (lambda: flags.read_job(given)), (lambda: flags.stand_in(given))
    raise SystemExit(supervisor.run(read, stand_in, worker="tests.faults.recording_worker"))
