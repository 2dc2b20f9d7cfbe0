"""Plain torch. Always there, on any device; every other engine is checked against it.

CPU: float32. CUDA: autocast in the half precision the GPU has (bfloat16 from sm_80 on, else float16), and a CUDA graph for each
batch size (`cuda_graphs`). channels_last on both: it is what the uint8 photos already are, and on a CPU it is faster from two
photos on (docs/engines.md).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from containers.core import accelerator, artifact
from containers.core.accelerator import Accelerator
from containers.core.manifest import HALF_TOLERANCE, Manifest
from containers.serve.engines import LoadedEngine
from containers.serve.engines.cuda_graphs import CudaRecorder, Graphs


def load(model_dir: Path, manifest: Manifest, *, device: str = "cpu", threads: int = 1) -> LoadedEngine:
    """`device` is cpu, cuda or cuda:N. Sets torch's thread count for this process. Raises ArtifactError, AcceleratorError."""
    kind, _, index = device.partition(":")
    found = accelerator.detect(kind, local_rank=int(index or 0))
    torch.set_num_threads(max(threads, 1))
    if found.device.type == "cuda":
        torch.cuda.set_device(found.device)  # each return from a stream to another current GPU would make a context there
    forward = _forward(artifact.load(model_dir).build(), manifest, found)

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return forward(torch.from_numpy(np.require(batch, requirements="W")).to(found.device)).cpu().numpy()

    if found.amp_dtype is None:
        return LoadedEngine(name="eager", device=str(found.device), tolerance=manifest.golden.tolerance, run=run)
    graphs = Graphs(forward, run, CudaRecorder(found.device), device=found.device, tolerance=HALF_TOLERANCE)
    return LoadedEngine(
        name="eager",
        device=str(found.device),
        tolerance=HALF_TOLERANCE,
        run=graphs,
        record=graphs.record,
        reported_late=partial(accelerator.reported_late, device=found.device),
    )


def _forward(model: nn.Module, manifest: Manifest, found: Accelerator) -> Callable[[Tensor], Tensor]:
    """uint8 (N, H, W, 3) on the device → float32 probabilities (N, classes) there. Neither copies from the host nor waits."""
    if found.amp_dtype is not None:
        cast_weights(model, found.amp_dtype)
    model = model.to(found.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    centre, scale = artifact.constants(manifest.preprocessing.mean, manifest.preprocessing.std, found.device)
    temperature = manifest.calibration.temperature

    def forward(pixels: Tensor) -> Tensor:
        amp = torch.autocast(found.device.type, found.amp_dtype, enabled=found.amp_dtype is not None, cache_enabled=False)
        with amp:
            logits: Tensor = model(artifact.normalise_by(pixels, centre, scale))
            return (logits.float() / temperature).softmax(dim=1)

    return forward


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """What autocast does to the weights of convolutions and linear layers at every call, once: the same numbers, less work."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
