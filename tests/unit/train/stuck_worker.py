"""The real worker, which stands still in the first step of its second epoch: what a stop finds where no step ends any more."""

import sys
import threading
from pathlib import Path

from containers.core import logs
from containers.train import optimisation, own_process, worker

_step = optimisation.Stepper.step
_done: list[None] = []


def step(self, *arguments):
    if len(_done) == 3:
        logs.get("stuck").info("standing still")
        while True:  # also after a signal
            threading.Event().wait(1)
    _done.append(None)
    return _step(self, *arguments)


if __name__ == "__main__":
    optimisation.Stepper.step = step
    sys.exit(own_process.guarded(lambda: worker.main(Path(sys.argv[1]))))
