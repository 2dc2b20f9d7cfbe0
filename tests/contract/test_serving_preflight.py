"""What the start makes of the host's NVIDIA driver, which is read before torch is, and of GPUs that torch cannot use."""

import os
import sys
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.scripted import with_gpus
from tests.support.server import PATIENCE, ROOT, Server, serving, until

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use this host's GPU")
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc 11\n"
COMPAT = "570.124.06"


@NO_GPU
@pytest.mark.slow
def test_gpus_that_torch_cannot_use_end_it_with_one_line_that_names_the_remedy(model_dir: Path, tmp_path: Path):
    settings = {"program": "tests.support.scripted_server", "engine": "auto", "model_processes": 0}
    server = Server(model_dir, tmp_path / "log", with_gpus(tmp_path, 2), **settings)
    assert server.process.wait(PATIENCE) == 4
    (line,) = [line for line in server.log.read_text().splitlines() if not line.startswith("{")]
    assert line.startswith("kennel serve: AcceleratorError: this host has an NVIDIA GPU with driver ")
    assert "set InferenceAmiVersion to al2-ami-sagemaker-inference-gpu-3-1" in line
    assert f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use" in line


@NO_GPU
@pytest.mark.slow
def test_the_cpu_may_be_asked_for_where_torch_cannot_use_the_gpus(model_dir: Path, tmp_path: Path):
    settings = {"program": "tests.support.scripted_server", "engine": "auto", "device": "cpu"}
    with serving(model_dir, tmp_path / "log", with_gpus(tmp_path, 2), **settings) as server:
        assert server.events("listening")[0]["models"] == ["cpu"]
        assert server.events("model loaded")[0]["engine"] == "eager"


@pytest.mark.parametrize(("driver", "older"), [("535.183.01", True), ("580.65.06", False)])
def test_the_whole_server_has_forward_compatibility_where_the_driver_is_older_than_the_image_s_library(
    model_dir: Path, tmp_path: Path, driver: str, older: bool
):
    """As SageMaker starts it: bin/serve, which then is the server itself."""
    compat = tmp_path / "compat"
    compat.mkdir()
    (compat / f"libcuda.so.{COMPAT}").touch()
    (compat / "libcuda.so.1").symlink_to(f"libcuda.so.{COMPAT}")
    (tmp_path / "version").write_text(DRIVER.format(driver))
    environ = {"CUDA_COMPAT_DIR": str(compat), "NVIDIA_VERSION_FILE": str(tmp_path / "version")}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LD_LIBRARY_PATH": "/before"}
    server = Server(model_dir, tmp_path / "log", environ, program=ROOT / "containers/serve/bin/serve", device="cpu")
    try:
        until(lambda: server.processes("kennel-http") and server.processes("kennel-model"), "both kinds of process")
        everyone = [psutil.Process(server.process.pid), *server.processes("kennel-")]
        wanted = f"{compat}:/before" if older else "/before"
        assert {process.environ()["LD_LIBRARY_PATH"] for process in everyone} == {wanted}
        told = f"NVIDIA driver {driver} is older than {COMPAT}: using the forward-compatibility libcuda"
        assert (told in server.log.read_text().splitlines()) == older
        assert server.stop() == 0
    finally:
        server.process.kill()
