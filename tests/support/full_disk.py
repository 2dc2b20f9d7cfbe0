"""A disk without room, as one process sees it: the kernel refuses to write more of a file than a limit."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def no_file_larger_than(size: int) -> None:
    """From here to the end of this process: EFBIG instead of ENOSPC, else as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    no_file_larger_than(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
