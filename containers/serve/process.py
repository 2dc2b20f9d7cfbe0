"""What a forked child tells the kernel about itself (Linux, prctl(2)). Imports nothing heavy."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

_name = "kennel"


def name() -> str:
    """What `become` made of this process. A process that replaces a dead one gets its name."""
    return _name


def become(name: str, parent: int) -> None:
    """Show as `name` (15 characters at most) in ps and top, and die by SIGKILL when the process `parent` dies, or has died.

    So no process outlives its server, however that ended.
    """
    global _name
    _name = name
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)
