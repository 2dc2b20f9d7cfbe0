"""How much memory a server holds, whoever else runs on the machine."""

from pathlib import Path

import psutil


def resident_mb(pid: int) -> float:
    """Of a process and all its descendants: their own pages and those they share with each other, in MB.

    Pages of files count for nothing: what a process holds of them depends on who else has the same libraries open.
    """
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(_kilobytes(process.pid, "Pss_Anon:", "Pss_Shmem:") for process in family) / 1000


def anonymous_mb(pid: int) -> float:
    """Of one process, in MB: all its pages that are of no file, whoever else has them since a fork."""
    return _kilobytes(pid, "Anonymous:") / 1000


def _kilobytes(pid: int, *kinds: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(kinds))
