"""containers/core/accelerator.py, with the driver files and architecture lists of real hosts instead of a GPU."""

import pytest
import torch

from containers.core import accelerator
from containers.core.errors import AcceleratorError

TORCH_2_10 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
TORCH_2_15 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\nGCC\n", "470.256.02"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("something else\n", None),
    ],
)  # fmt: skip
def test_driver_version_is_read_from_the_kernel_modules_file(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert accelerator.driver_version(tmp_path / "version") == version


def test_no_driver_file_is_no_driver(tmp_path):
    assert accelerator.driver_version(tmp_path / "version") is None


@pytest.mark.parametrize(
    ("capability", "arch_list"),
    [
        ((7, 5), TORCH_2_10),  # T4
        ((7, 0), TORCH_2_10),  # V100
        ((8, 6), TORCH_2_15),  # A10G
        ((8, 9), TORCH_2_15),  # L4 runs sm_86 code
        ((9, 0), TORCH_2_15),
        ((12, 0), TORCH_2_15),
        ((12, 1), TORCH_2_15),
        ((10, 3), ["sm_80", "compute_90"]),  # PTX is compiled for what comes later
    ],
)
def test_architectures_that_fit(capability, arch_list):
    accelerator.check_architecture(capability, arch_list, "GPU")


@pytest.mark.parametrize(
    ("capability", "arch_list", "words"),
    [
        ((7, 0), TORCH_2_15, "Tesla is sm_70, but this image's torch was built for sm_75, sm_80"),
        ((3, 7), TORCH_2_10, "sm_37"),
        ((8, 0), ["sm_86"], "sm_80"),  # older than the code of its own family
        ((7, 5), ["compute_80"], "sm_75"),
        ((9, 0), ["sm_90a"], "sm_90"),
        ((7, 5), [], "no GPU at all"),
    ],
)
def test_architectures_that_do_not_fit_are_named(capability, arch_list, words):
    with pytest.raises(AcceleratorError, match="use another instance type") as caught:
        accelerator.check_architecture(capability, arch_list, "Tesla")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_half_precision_by_what_the_hardware_has(capability, dtype):
    assert accelerator.amp_dtype(capability) is dtype


def test_cpu_is_full_precision():
    found = accelerator.detect("cpu")
    assert (found.device.type, found.amp_dtype) == ("cpu", None)


def test_an_unknown_device_is_refused():
    with pytest.raises(AcceleratorError, match="use auto, cpu or cuda"):
        accelerator.detect("tpu")


@pytest.mark.skipif(torch.cuda.is_available() or accelerator.host_shows_gpu(), reason="this host has a GPU")
def test_without_a_gpu_auto_is_cpu_and_cuda_is_an_error_that_says_how():
    assert accelerator.detect("auto").device.type == "cpu"
    with pytest.raises(AcceleratorError, match="--gpus all"):
        accelerator.detect("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_with_a_gpu_auto_takes_it():
    found = accelerator.detect("auto")
    assert (found.device, found.amp_dtype is not None) == (torch.device("cuda", 0), True)


def test_a_gpu_that_torch_cannot_use_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(accelerator, "host_shows_gpu", lambda: True)
    monkeypatch.setattr(accelerator, "driver_version", lambda: "470.256.02")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for requested in ("auto", "cuda"):
        with pytest.raises(AcceleratorError, match="InferenceAmiVersion") as caught:
            accelerator.detect(requested)
        assert "driver 470.256.02" in str(caught.value)
        assert "KENNEL_DEVICE=cpu" in str(caught.value)
        assert "CUDA_VISIBLE_DEVICES" not in str(caught.value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(AcceleratorError, match=r"cannot use \(CUDA_VISIBLE_DEVICES is '7'; there are device files for \d\)"):
        accelerator.detect("cuda")
    assert accelerator.detect("cpu").name == "cpu"


def test_an_error_that_a_library_hides_is_asked_of_the_device_which_is_not_waited_for(monkeypatch):
    """What runs there may wait for a rank that is gone."""
    hidden, device = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), torch.device("cuda", 0)

    class Busy:
        def query(self):
            return False

    class Broken:
        def query(self):
            raise RuntimeError("CUDA error: device-side assert triggered")

    for stream, cause in ((Busy(), None), (Broken(), "CUDA error: device-side assert triggered")):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device, stream=stream: stream)
        found = accelerator.reported_late(hidden, device)
        assert (found and str(found)) == cause
    assert accelerator.reported_late(hidden, torch.device("cpu")) is None
