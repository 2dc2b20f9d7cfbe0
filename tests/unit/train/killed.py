"""Runs that are killed, and what they leave: what tests of whole runs share."""

import logging
import os
import signal

from safetensors.torch import load_file

from containers.core import manifest
from containers.train import worker

EVERY_STEP = 1e-9  # seconds: a checkpoint at every step


class _Dying(logging.Handler):
    """Kills its process, and the loaders of it, right after a checkpoint."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def emit(self, record):
        if record.getMessage() == "checkpoint" and record.step >= self._step:
            os.killpg(0, signal.SIGKILL)


def killed_after_checkpoint(step):
    def main(job_file):
        log = logging.getLogger("containers.train.checkpoint")
        log.setLevel(logging.DEBUG)
        log.addHandler(_Dying(step))
        return worker.main(job_file)

    return main


def weights(job):
    return load_file(job.paths.model_dir / manifest.WEIGHTS_FILE)
