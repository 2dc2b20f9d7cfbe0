"""One model process: load and verify the artifact, warm up, check against the golden photo, say ready, answer batches."""

import os
from dataclasses import dataclass
from pathlib import Path

from containers.core import logs, manifest
from containers.core.errors import Error, is_out_of_memory
from containers.serve import batching, child, engines
from containers.serve.config import ServeConfig
from containers.serve.errors import OutOfMemory
from containers.serve.health import Health
from containers.serve.predictor import PoisonedDevice, Predictor
from containers.serve.slots import Slots

log = logs.get(__name__)

EXIT_POISONED, EXIT_NO_MEMORY = 70, OutOfMemory.exit_code
_broken: list[Predictor] = []
"""Kept until the process is gone: torch aborts where a device that is broken says so to a CUDA graph's destructor
(c10/cuda/CUDAGraphsC10Utils.h)."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one model process works on."""

    process: int
    model_dir: Path
    device: str
    threads: int


def run(job: Assignment, config: ServeConfig, slots: Slots, health: Health) -> int:
    """The life of a model process; returns its exit code. Errors that are ours are explained in `health`, not raised."""
    logs.configure(process=f"model-{job.process}", **child.context())
    os.environ["OMP_NUM_THREADS"] = str(job.threads)  # before torch or OpenVINO load their runtimes
    try:
        predictor = load(job, config)
    except Error as error:
        health.explain(job.process, f"{error.kind}: {error}")
        return error.exit_code
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        health.explain(job.process, f"OutOfMemory: the model does not fit into memory ({error}): use a larger instance")
        return EXIT_NO_MEMORY
    health.ready(job.process)
    try:
        batching.run(slots, health, job.process, predictor, lambda: predictor.max_batch)
    except PoisonedDevice:
        _broken.append(predictor)
        return EXIT_POISONED
    return 0


def load(job: Assignment, config: ServeConfig) -> Predictor:
    """Raises ArtifactError, AcceleratorError, ConfigError: this model cannot be served here."""
    facts = manifest.read(job.model_dir)
    engine = engines.load(job.model_dir, facts, requested=config.engine, device=job.device, threads=job.threads)
    predictor = Predictor(engine, config.largest_batch(gpu=job.device != "cpu"), engine.reported_late)
    predictor.warm_up(facts.preprocessing.shape)
    recorded = engine.record(facts.preprocessing.shape, predictor.sizes) if config.cuda_graphs == "auto" else ()
    told = {"engine": engine.name, "device": engine.device, "threads": job.threads, "cuda_graphs": recorded}
    log.info("model loaded", extra=told | {"golden_difference": engines.check_golden(engine, job.model_dir, facts)})
    return predictor
