"""What the machine shows without asking torch: read by processes that must not import it."""

import re
from pathlib import Path


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The NVIDIA kernel driver's version, None where there is none."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", path.read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def host_shows_gpu(dev: Path = Path("/dev")) -> bool:
    return any(dev.glob("nvidia[0-9]*"))
