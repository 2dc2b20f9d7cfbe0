"""Free memory as the kernel shows it, with folders that look like the kernel's."""

from pathlib import Path

import pytest

from containers.core import host

GB = 1_000_000_000
V2 = ("memory.max", "memory.current", "memory.stat", "")
V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_")
NO_LIMIT_V1 = 9_223_372_036_854_771_712


@pytest.fixture
def free(tmp_path: Path):
    """host.free_memory on a host with 16 GB, in a group of `version` with this limit, use and cached pages."""

    def memory(version: tuple[str, str, str, str], limit: object, used: int, inactive: int = 0, active: int = 0) -> int:
        *files, prefix = version
        stat = f"file {inactive + active}\nanon 5\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\n"
        for name, text in zip(files, (f"{limit}\n", f"{used}\n", stat), strict=True):
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "meminfo").write_text(f"MemTotal: {32 * GB // 1024} kB\nMemAvailable: {16 * GB // 1024} kB\n")
        return host.free_memory(tmp_path / "meminfo", tmp_path / "cgroup")

    return memory


@pytest.mark.parametrize("version", [V2, V1])
def test_what_the_limit_leaves_counts(free, version):
    assert free(version, 4 * GB, 1 * GB) == 3 * GB


@pytest.mark.parametrize("version", [V2, V1])
def test_pages_of_files_that_were_read_are_free(free, version):
    """After many models were loaded and unloaded nearly all of the limit is page cache."""
    assert free(version, 4 * GB, 4 * GB - 1, inactive=2 * GB, active=1 * GB) == 3 * GB + 1


@pytest.mark.parametrize(("version", "limit"), [(V2, "max"), (V2, 64 * GB), (V1, NO_LIMIT_V1)])
def test_without_a_limit_or_under_a_large_one_the_host_counts(free, version, limit):
    assert free(version, limit, 3 * GB, inactive=2 * GB) == 16 * GB


def test_a_group_whose_use_is_at_its_limit_has_nothing_left(free):
    assert free(V2, 4 * GB, 4 * GB) == 0


def test_where_no_group_is_shown_the_host_counts(tmp_path: Path):
    (tmp_path / "meminfo").write_text("MemAvailable: 1000 kB\n")
    assert host.free_memory(tmp_path / "meminfo", tmp_path / "nowhere") == 1_024_000
    assert 0 < host.free_memory() < 1 << 44
