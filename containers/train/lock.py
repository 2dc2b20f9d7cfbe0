"""One run at a time writes to a checkpoint directory.

Where the first process of a run was killed, its ranks have a minute and a half to end (`first_process.STOP_SECONDS`). A run
that is started meanwhile would read a directory that changes, and each would prune what the other wrote.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from containers.core import logs
from containers.core.errors import ConfigError
from containers.train.errors import NotBegun

LOCK_FILE = ".lock"
WAIT_SECONDS = 110.0
"""Longer than ranks that were told to stop may take."""
_POLL_SECONDS = 0.2
log = logs.get(__name__)


def hold(directory: Path, asked: Callable[[], bool] = lambda: False) -> int | None:
    """Lock `directory` for this process; returns the descriptor that holds the lock, None where the file system has no locks.

    Waits for another process to end. Raises ConfigError where it does not within WAIT_SECONDS, NotBegun once `asked` to stop.
    The lock is of the process (fcntl(2)): it ends with it, also where loaders that it forked live on.
    """
    try:
        handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        why = f"{directory / LOCK_FILE} cannot be written ({error.strerror})"
        raise ConfigError(f"{why}: let this user write there, or choose another checkpoint directory") from error
    deadline, said = time.monotonic() + WAIT_SECONDS, False
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except (BlockingIOError, PermissionError) as error:  # which of them is the file system's choice
            if asked() or time.monotonic() > deadline:
                os.close(handle)
                raise _why(directory, asked()) from error
        except OSError as error:
            log.warning("this file system has no locks", extra={"directory": str(directory), "reason": str(error)})
            os.close(handle)
            return None
        if not said:
            log.warning("waiting for another run that writes here", extra={"directory": str(directory)})
            said = True
        time.sleep(_POLL_SECONDS)


def _why(directory: Path, stopped: bool) -> ConfigError | NotBegun:
    if stopped:
        return NotBegun(f"asked to stop while another run still wrote to {directory}; start the job again to train")
    return ConfigError(f"another run writes to {directory}: end it, or choose another checkpoint directory")
