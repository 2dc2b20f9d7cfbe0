"""Counting cores the way the cgroup grants them, with folders that look like the kernel's."""

import os
from pathlib import Path

import pytest

from containers.core import host


@pytest.fixture
def kernel(tmp_path: Path):
    """Write cgroup files; returns host.cores for a process in `group`."""
    affinity = os.sched_getaffinity(0)

    def cores(files: dict[str, str], membership: str) -> int:
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "self").write_text(membership)
        return host.cores(tmp_path / "cgroup", tmp_path / "self")

    return cores, len(affinity)


def test_without_a_limit_the_affinity_counts(kernel):
    cores, affinity = kernel
    assert cores({"a/cpu.max": "max 100000\n"}, "0::/a\n") == affinity
    assert cores({}, "0::/a\n") == affinity
    assert host.cores(Path("/nowhere"), Path("/nowhere")) == affinity


def test_the_quota_of_the_group_or_of_a_parent_counts(kernel):
    cores, affinity = kernel
    assert cores({"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, "0::/a/b\n") == 1
    assert cores({"cpu.max": "50000 100000"}, "0::/\n") == 1
    assert cores({"cpu.max": "150000 100000"}, "0::/\n") == min(2, affinity)


def test_cgroup_v1(kernel):
    cores, affinity = kernel
    files = {"cpu/box/cpu.cfs_quota_us": "100000", "cpu/box/cpu.cfs_period_us": "100000"}
    assert cores(files, "4:memory:/box\n3:cpu,cpuacct:/box\n") == 1
    assert cores({"cpu/box/cpu.cfs_quota_us": "-1"}, "3:cpu,cpuacct:/box\n") == affinity


def test_gpus_are_counted_by_their_device_files(tmp_path: Path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert host.gpus(tmp_path, None) == 2
    assert host.gpus(tmp_path, "1") == 1
    assert host.gpus(tmp_path, "") == 0
    assert host.gpus(tmp_path, "0,-1,1") == 1  # CUDA reads no further


@pytest.mark.parametrize(("visible", "shown"), [(None, True), ("0", True), ("GPU-8932f937", True), ("", False), ("-1", False)])
def test_a_gpu_that_is_hidden_from_this_process_is_not_there(tmp_path: Path, visible: str | None, shown: bool):
    assert not host.host_shows_gpu(tmp_path, visible)
    (tmp_path / "nvidia0").touch()
    assert host.host_shows_gpu(tmp_path, visible) is shown
