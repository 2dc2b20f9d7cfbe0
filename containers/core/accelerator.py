"""Which device this process computes on, and whether the torch inside fits the host outside.

Torch answers `cuda.is_available() == False` on a driver that is too old, and then everything silently runs on the CPU
(skypilot issue 9406). So a GPU that the host shows but torch cannot use is an error here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from containers.core.errors import AcceleratorError
from containers.core.host import driver_version, host_shows_gpu, visible_gpus

_REMEDY = (
    "use a host with a newer driver: on a SageMaker endpoint set InferenceAmiVersion to al2-ami-sagemaker-inference-gpu-3-1, "
    "on EC2 take the current deep-learning AMI; or run without the GPU: KENNEL_DEVICE=cpu, for the server SERVE_DEVICE=cpu"
)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """`amp_dtype` is what autocast should use, None for plain float32."""

    device: torch.device
    name: str
    amp_dtype: torch.dtype | None


def check_architecture(capability: tuple[int, int], arch_list: Sequence[str], name: str) -> None:
    """Raises AcceleratorError where the torch build has no code for this GPU (T4 is sm_75, V100 sm_70)."""
    exact = [int(arch[3:]) for arch in arch_list if arch.startswith("sm_") and arch[3:].isdigit()]
    portable = [int(arch[8:]) for arch in arch_list if arch.startswith("compute_") and arch[8:].isdigit()]
    wanted = capability[0] * 10 + capability[1]
    fits = any(code // 10 == capability[0] and code <= wanted for code in exact) or any(code <= wanted for code in portable)
    if not fits:
        built = ", ".join(arch_list) or "no GPU at all"
        raise AcceleratorError(
            f"{name} is sm_{wanted}, but this image's torch was built for {built}: use another instance type"
        )


def amp_dtype(capability: tuple[int, int]) -> torch.dtype:
    """bfloat16 where the hardware has it (sm_80 on), float16 below: torch's own bf16 test also counts emulation."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def detect(requested: str = "auto", *, local_rank: int = 0) -> Accelerator:
    """`requested` is auto, cpu or cuda. Raises AcceleratorError naming the remedy; CPU runs in float32."""
    if requested not in ("auto", "cpu", "cuda"):
        raise AcceleratorError(f"device {requested!r} is not known: use auto, cpu or cuda")
    if requested == "cpu":
        return _cpu()
    if not torch.cuda.is_available():
        if host_shows_gpu():
            raise AcceleratorError(
                f"this host has an NVIDIA GPU with driver {driver_version() or 'unknown'}, "
                f"which torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use{_chosen()}: {_REMEDY}"
            )
        if requested == "cuda":
            raise AcceleratorError(
                f"a GPU was asked for, but this host has none{_chosen()}: run with --gpus all, or set the device to cpu"
            )
        return _cpu()
    capability, name = torch.cuda.get_device_capability(local_rank), torch.cuda.get_device_name(local_rank)
    check_architecture(capability, torch.cuda.get_arch_list(), name)
    device = torch.device("cuda", local_rank)
    return Accelerator(device=device, name=name, amp_dtype=amp_dtype(capability))


def reported_late(error: RuntimeError, device: torch.device) -> RuntimeError | None:
    """What is wrong with `device` since before `error`, None where nothing is.

    CUDA tells of a kernel's error at some later call, and at every call from then on. The first may be of a library that names
    only itself ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED" for an index out of bounds). This asks without waiting: what runs
    may be a collective that waits for a rank that is gone.
    """
    if device.type != "cuda":
        return None
    try:
        torch.cuda.current_stream(device).query()
    except RuntimeError as cause:
        return cause.with_traceback(error.__traceback__)
    return None


def _chosen() -> str:
    """A list of GPUs that this host does not have looks like a driver that does not work."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return ""
    return f" (CUDA_VISIBLE_DEVICES is {named!r}; there are device files for {len(visible_gpus(visible=None))})"


def _cpu() -> Accelerator:
    return Accelerator(device=torch.device("cpu"), name="cpu", amp_dtype=None)
