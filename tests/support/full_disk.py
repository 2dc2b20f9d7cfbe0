"""A disk without room: for one process (the kernel refuses to write more of a file than a limit), and a real, small one."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.requirement import unavailable


def no_file_larger_than(size: int) -> None:
    """From here to the end of this process: EFBIG instead of ENOSPC, else as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    no_file_larger_than(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def small_volume(folder: Path, megabytes: int) -> Iterator[Path]:
    """`folder` as a file system of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        unavailable("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Write the file that takes all room but `leave` bytes; delete it to make room."""
    path = folder / "somebody-elses"
    path.touch()
    top_up(path, leave)
    return path


def top_up(path: Path, leave: int = 0) -> None:
    """Write on until the file has taken what has become free meanwhile."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 8):
            with contextlib.suppress(OSError):
                while shutil.disk_usage(path.parent).free > leave:
                    file.write(bytes(size))
