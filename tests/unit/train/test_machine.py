"""Checks of the machine: what they accept, what they say."""

import os
import shutil
import socket
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from containers.core.errors import AcceleratorError, ConfigError
from containers.core.host import host_shows_gpu
from containers.train import machine
from containers.train.errors import PeerLost
from containers.train.job import Cluster, JobPaths
from tests.unit.train.jobs import customized, two_gpus

TWO = Cluster(hosts=("algo-1", "algo-2"), current_host="algo-1")


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    return JobPaths(**dict.fromkeys(("model_dir", "output_dir", "checkpoint_dir", "failure_file", "scratch_dir"), tmp_path))


@pytest.mark.parametrize("what", ["checkpoints", "model"])
def test_a_full_disk_is_named(paths: JobPaths, what: str) -> None:
    machine.check_disk(paths, checkpoints=1, model=1)
    with pytest.raises(ConfigError, match=rf"{paths.model_dir} has \d+ MB free and training needs {1 << 30}: make room"):
        machine.check_disk(paths, **{"checkpoints": 0, "model": 0, what: 1 << 50})


def test_checkpoints_and_model_on_one_disk_need_room_together(paths: JobPaths) -> None:
    most = int(shutil.disk_usage(paths.model_dir).free * 0.6)
    machine.check_disk(paths, checkpoints=most, model=0)
    machine.check_disk(paths, checkpoints=0, model=most)
    with pytest.raises(ConfigError):
        machine.check_disk(paths, checkpoints=most, model=most)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("checkpoint-00000001-ab.pt", True), ("base-ab.pt", True), ("weights.safetensors", True), ("somebody-elses", False)],
)
def test_what_the_job_holds_already_is_room_for_it(paths: JobPaths, name: str, counts: bool) -> None:
    large = 1 << 40
    with (paths.model_dir / name).open("wb") as file:
        file.truncate(large)  # takes no room itself
    needs = {"checkpoints": 0, "model": 0, "model" if name.startswith("weights") else "checkpoints": large}
    if counts:
        machine.check_disk(paths, **needs)
    else:
        with pytest.raises(ConfigError):
            machine.check_disk(paths, **needs)


def test_no_torch_is_loaded_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    assert machine.check_accelerator("cpu") == 0


@pytest.mark.skipif(host_shows_gpu(), reason="this host has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(AcceleratorError, match="this host has none"):
        machine.check_accelerator("cuda")


def test_a_host_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PYTHONPATH", two_gpus(tmp_path / "gpus"))
    caplog.set_level("INFO")
    assert machine.check_accelerator("cuda") == 2
    (told,) = [record for record in caplog.records if record.message == "accelerator"]
    assert (told.device, told.gpus) == ("Tesla T4", 2)


def test_what_cuda_says_of_a_broken_gpu_is_told_and_not_how_to_debug_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", two_gpus(tmp_path / "gpus"))
    with (tmp_path / "gpus/sitecustomize.py").open("a") as file:
        file.write(_BROKEN)
    with pytest.raises(AcceleratorError, match=r"^torch cannot use the GPU: CUDA error: uncorrectable ECC error encountered$"):
        machine.check_accelerator("cuda")


_BROKEN = """
    def broken(gpu):
        if gpu == 1:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nCompile with `TORCH_USE_CUDA_DSA` to enable")
        return 7, 5

    torch.cuda.get_device_capability = broken
"""


def test_a_driver_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", customized(tmp_path / "gpus", "import time\n\ntime.sleep(600)\n"))
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.5)
    with pytest.raises(AcceleratorError, match=r"^the GPU's driver did not answer within 0 s: restart this host"):
        machine.check_accelerator("cuda")


class Names:
    """A resolver whose names appear after some calls, and a clock that the pauses move."""

    def __init__(self, failures: int) -> None:
        self.failures, self.now, self.asked = failures, 0.0, []

    def resolve(self, host: str, _port: None) -> list[str]:
        self.asked.append(host)
        if len(self.asked) <= self.failures:
            raise socket.gaierror(-2, "Name or service not known")
        return ["10.0.0.1"]

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_names_may_come_late() -> None:
    names = Names(failures=6)
    machine.resolve_peers(TWO, 300, resolve=names.resolve, pause=names.pause, clock=lambda: names.now)
    assert names.asked == ["algo-1"] * 7 + ["algo-2"]


def test_names_that_never_come() -> None:
    names = Names(failures=10**6)
    with pytest.raises(PeerLost, match="algo-1 did not resolve within 300 s"):
        machine.resolve_peers(TWO, 300, resolve=names.resolve, pause=names.pause, clock=lambda: names.now)
    assert 300 < names.now < 330


def test_a_single_host_resolves_nothing() -> None:
    names = Names(failures=0)
    machine.resolve_peers(Cluster(), resolve=names.resolve)
    assert names.asked == []


def test_more_hosts_cannot_be_left_than_there_are() -> None:
    three = Cluster(hosts=("a", "b", "c"), current_host="a")
    machine.check_hosts(three, 3)
    machine.check_hosts(Cluster(), 2)  # a job of several hosts, gone on with by one
    with pytest.raises(ConfigError, match="min_hosts is 4 and the job has 3 hosts"):
        machine.check_hosts(three, 4)


def test_more_processes_than_gpus_are_refused() -> None:
    four = Cluster(processes_per_host=4)
    with pytest.raises(ConfigError, match=r"--processes-per-host is 4 and host localhost has 2 GPU\(s\)"):
        machine.check_processes(four, gpus=2)
    machine.check_processes(four, gpus=4)
    machine.check_processes(four, gpus=0)
    machine.check_processes(Cluster(), gpus=2)


@pytest.fixture
def headers(tmp_path: Path) -> str:
    """A folder with Python's."""
    (tmp_path / "Python.h").touch()
    return str(tmp_path)


@pytest.fixture
def compiling_host(monkeypatch: pytest.MonkeyPatch, headers: str) -> pytest.MonkeyPatch:
    """It has everything, and variables that name none of it."""
    for name in ("CC", "CXX", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_is_installed", lambda name: True)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: headers)
    return monkeypatch


@pytest.mark.parametrize(
    ("gpus", "installed", "compilers", "says"),
    [
        (1, (), ("gcc",), "torch_compile needs triton: build the train image with COMPILE=1, or set torch_compile to false"),
        (
            1,
            ("triton",),
            (),
            "torch_compile needs a compiler (gcc or clang; CC may name another): build the train image with COMPILE=1",
        ),
        (2, (), (), "torch_compile needs triton and a compiler"),
        (0, (), ("g++",), "torch_compile needs torch.include: install them (Kennel's images compile for GPUs only)"),
        (0, ("torch.include",), ("gcc", "clang++"), "torch_compile needs a compiler (g++; CXX may name another)"),
    ],
)
def test_what_torch_compile_lacks_is_named(
    compiling_host: pytest.MonkeyPatch, gpus: int, installed: tuple[str, ...], compilers: tuple[str, ...], says: str
) -> None:
    compiling_host.setattr(machine, "_is_installed", lambda name: name in installed)
    with pytest.raises(ConfigError) as raised:
        machine.check_compiler(gpus, which=lambda name: f"/bin/{name}" if name in compilers else None)
    assert str(raised.value).startswith(says)


def test_a_host_that_can_compile_may_also_with_a_compiler_that_the_user_named(compiling_host: pytest.MonkeyPatch) -> None:
    for gpus in (0, 1):
        machine.check_compiler(gpus, which=str)
    compiling_host.setenv("CC", "/opt/my compiler/cc")
    only = {"/opt/my compiler/cc": "found"}
    machine.check_compiler(1, which=only.get)
    with pytest.raises(ConfigError, match="a compiler \\(CC names /opt/my compiler/cc, which is not on PATH\\)"):
        machine.check_compiler(1, which={}.get)
    with pytest.raises(ConfigError, match=r"a compiler \(g\+\+; CXX"):
        machine.check_compiler(0, which=only.get)


def test_headers_of_python_that_are_not_there_are_named(compiling_host: pytest.MonkeyPatch, headers: str) -> None:
    Path(headers, "Python.h").unlink()
    for gpus in (0, 1):
        with pytest.raises(ConfigError, match=r"torch_compile needs Python\.h \(Debian: python3-dev\)"):
            machine.check_compiler(gpus, which=str)


@pytest.mark.parametrize(
    ("variable", "gpus"), [("TORCHINDUCTOR_CACHE_DIR", 0), ("TORCHINDUCTOR_CACHE_DIR", 1), ("TRITON_CACHE_DIR", 1)]
)
def test_a_folder_from_which_no_module_can_be_loaded_is_named(
    compiling_host: pytest.MonkeyPatch, tmp_path: Path, variable: str, gpus: int
) -> None:
    """As docker's --tmpfs makes them."""
    compiling_host.setenv(variable, str(tmp_path / "not" / "made"))
    flags = {tmp_path: os.ST_NOEXEC | os.ST_NOSUID}
    compiling_host.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_flag=flags.get(folder, os.ST_NOSUID)))
    said = (
        f"loads modules from {tmp_path}, which is mounted noexec: mount it with exec .*, or name another place with {variable}"
    )
    with pytest.raises(ConfigError, match=said):
        machine.check_compiler(gpus, which=str)


def test_folders_that_nobody_uses_may_be_as_they_are(compiling_host: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one for temporary files where another is named, and triton's where there is no GPU."""
    compiling_host.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiling_host.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_flag=0 if folder == tmp_path else os.ST_NOEXEC))
    machine.check_compiler(1, which=str)
    compiling_host.setenv("TRITON_CACHE_DIR", "/nowhere")
    machine.check_compiler(0, which=str)


def test_packages_and_their_folders_are_found_without_an_import() -> None:
    found = [machine._is_installed(name) for name in ("torch", "torch.include", "torch.nowhere", "no_such_package")]
    assert found == [True, True, False, False]
