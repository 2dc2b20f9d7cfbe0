"""What the machine shows without asking torch: read by processes that must not import it."""

import itertools
import math
import os
import re
from pathlib import Path


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The NVIDIA kernel driver's version, None where there is none."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+[\d.]*)", path.read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Cores this process may keep busy: the smaller of its CPU affinity and its cgroup's quota, at least 1.

    A quota of 1.5 cores counts as 2. Reads cgroup v2 (`cpu.max` of the group and its parents) and v1
    (`cpu.cfs_quota_us`).
    """
    quotas = [float(len(os.sched_getaffinity(0)))]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        group = base / path.lstrip("/")
        quotas += [q for folder in (group, *group.parents, base) if folder.is_relative_to(base) and (q := _quota(folder))]
    return max(1, math.ceil(min(quotas)))


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still allocate: what the host has, less if the container's limit (cgroup v2 or v1) leaves less.

    Pages of files count as free where the kernel takes them back before it kills, as MemAvailable counts them too.
    """
    host = next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    v2 = _left(cgroup, "memory.max", "memory.current", "")
    v1 = _left(cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    return min(bound for bound in (host, v2, v1) if bound is not None)


def _left(group: Path, limit: str, use: str, prefix: str) -> int | None:
    """Bytes that one cgroup folder still grants, None where it sets no limit. File names and `prefix` are the version's."""
    try:
        allowed, used = (group / limit).read_text().strip(), int((group / use).read_text())
        lines = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        files = sum(int(number) for name, number in lines if name in (f"{prefix}inactive_file", f"{prefix}active_file"))
        return None if allowed == "max" else int(allowed) - used + files
    except (OSError, ValueError):
        return None


def _quota(group: Path) -> float | None:
    """Cores granted by one cgroup folder, None where it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            allowed, period = (group / "cpu.max").read_text().split()
        else:
            allowed, period = (group / "cpu.cfs_quota_us").read_text(), (group / "cpu.cfs_period_us").read_text()
        return None if allowed == "max" or int(allowed) <= 0 else int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def visible_gpus(dev: Path = Path("/dev"), visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> list[str]:
    """The NVIDIA GPUs this process may use, as CUDA_VISIBLE_DEVICES names them: those before the first that is none (CUDA C++
    Programming Guide, "CUDA Environment Variables").
    """
    files = sum(1 for path in dev.glob("nvidia[0-9]*") if path.name[6:].isdigit())
    if visible is None:
        return [str(number) for number in range(files)]
    names = [name.strip() for name in visible.split(",")]
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))[:files]


def host_shows_gpu(dev: Path = Path("/dev"), visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> bool:
    """And does not hide it from this process: an empty CUDA_VISIBLE_DEVICES asks for the CPU."""
    return bool(visible_gpus(dev, visible))


def gpus(dev: Path = Path("/dev"), visible: str | None = os.environ.get("CUDA_VISIBLE_DEVICES")) -> int:
    """How many NVIDIA GPUs this process may use, by the device files and CUDA_VISIBLE_DEVICES."""
    return len(visible_gpus(dev, visible))
