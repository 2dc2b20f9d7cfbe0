"""What every process of a job does when it begins and when it ends. Torch-free, so that PID 1 can use it."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from containers.core import logs
from containers.core.errors import ConfigError
from containers.train import failure
from containers.train.errors import Interrupted

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

PARENT_VARIABLE = "KENNEL_PARENT"
"""Tells a process the pid of the one that starts it, which may be gone before it can ask for the end with it."""


def end_with_parent(death_signal: int = signal.SIGTERM) -> None:
    """Ask Linux to signal this process when its parent dies, so that no half of a job lives on (prctl(2)); 0 takes it back.

    Where the parent that PARENT_VARIABLE names has died already, the signal comes at once: importing torch takes seconds.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.environ.pop(PARENT_VARIABLE, str(os.getppid())) != str(os.getppid()):
        os.kill(os.getpid(), death_signal)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, as PID 1 is in a container (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def guarded(main: Callable[[], int]) -> int:
    """Run the `main` of a process of ours and return its exit code; what it raises is logged, reported and mapped.

    Afterwards SIGTERM is ignored: Python restores its default before the process is gone, so that a second request to stop
    would turn "stopped, checkpoint committed" into "killed by SIGTERM" (seen on Python 3.11).
    """
    end_with_parent()
    try:
        return main()
    except Interrupted as interrupted:
        failure.report(interrupted)
        logs.get(__name__).info("interrupted", extra={"reason": str(interrupted)})
        return interrupted.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost frame of a process: everything must reach the one that started it
        made = failure.report(error)
        extra = {"kind": made.kind, "reason": made.message}
        if made.exit_code != ConfigError.exit_code:  # docs/decisions/031; failure.json has it
            extra["trace"] = made.trace
        logs.get(__name__).error("failed", extra=extra)
        return made.exit_code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End this process without Python's own end, which takes torch apart for half a second and frees what the kernel frees."""
    with contextlib.suppress(OSError):  # nobody reads them any more; the code still means what it says
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
