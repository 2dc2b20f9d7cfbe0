"""Plain torch. Always there, on any device; every other engine is checked against it.

CPU: float32. CUDA: autocast in the half precision the GPU has (bfloat16 from sm_80 on, else float16). channels_last on both:
it is what the uint8 photos already are, and on a CPU it is faster from two photos on (docs/engines.md).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from containers.core import accelerator, artifact
from containers.core.manifest import Manifest
from containers.serve.engines import HALF_TOLERANCE, LoadedEngine


def load(model_dir: Path, manifest: Manifest, *, device: str = "cpu", threads: int = 1) -> LoadedEngine:
    """`device` is cpu, cuda or cuda:N. Sets torch's thread count for this process. Raises ArtifactError, AcceleratorError."""
    kind, _, index = device.partition(":")
    found = accelerator.detect(kind, local_rank=int(index or 0))
    torch.set_num_threads(max(threads, 1))
    model = artifact.load(model_dir).build().to(found.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std, temperature = manifest.preprocessing.mean, manifest.preprocessing.std, manifest.calibration.temperature

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(found.device.type, found.amp_dtype, enabled=found.amp_dtype is not None):
            pixels = torch.from_numpy(np.require(batch, requirements="W")).to(found.device)
            logits: Tensor = model(artifact.normalise(pixels, mean, std))
            return (logits.float() / temperature).softmax(dim=1).cpu().numpy()

    tolerance = manifest.golden.tolerance if found.amp_dtype is None else HALF_TOLERANCE
    return LoadedEngine(name="eager", device=str(found.device), tolerance=tolerance, run=run)
