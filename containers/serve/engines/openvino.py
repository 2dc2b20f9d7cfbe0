"""OpenVINO's CPU runtime on the graphs that `train.export` wrote: fp32 at the speed of the matrix units, and int8.

Never imports torch: a model process with this engine is up in under a second.
"""

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.properties as props
import openvino.properties.hint as hints

from containers.core.errors import ArtifactError, is_out_of_memory
from containers.core.manifest import Manifest
from containers.serve.engines import LoadedEngine, verified


def load(model_dir: Path, manifest: Manifest, *, name: str, threads: int = 1) -> LoadedEngine:
    """Raises ArtifactError for files that training did not write or that this runtime cannot read, and OpenVINO's own error
    (`is_out_of_memory`) for a model that does not fit into memory."""
    file, entry = verified(model_dir, manifest, name)
    settings = {
        hints.performance_mode(): hints.PerformanceMode.LATENCY,
        hints.inference_precision(): ov.Type.f32,  # of what is not int8: no silent bfloat16
        hints.enable_cpu_pinning(): False,  # several processes share the cores of one container
        props.num_streams(): 1,
        props.inference_num_threads(): max(threads, 1),
    }
    try:
        compiled = ov.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactError(f"{file} cannot be compiled by OpenVINO {ov.__version__}: {error}") from error
    request = compiled.create_infer_request()

    def run(batch: np.ndarray) -> np.ndarray:
        request.infer([batch], share_inputs=True)
        answer: np.ndarray = request.get_output_tensor().data.copy()  # the tensor is overwritten by the next batch
        return answer

    return LoadedEngine(name=name, device="cpu", tolerance=entry.tolerance, run=run)
