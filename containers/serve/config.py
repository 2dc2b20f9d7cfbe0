"""How the server behaves, from the environment. Torch-free: `deploy` checks it before anything is sent.

Every setting is an environment variable: the field's name in capitals with the prefix SERVE_ (SERVE_MAX_BATCH). SageMaker's
own variables (SAGEMAKER_BIND_TO_PORT, SAGEMAKER_MULTI_MODEL, SAGEMAKER_BATCH) are read by `from_environment`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from containers.core.settings import Settings, parse

PREFIX = "SERVE_"
_CPU_BATCH, _GPU_BATCH = 8, 32


class ServeConfig(Settings):
    model_dir: Path = Path("/opt/ml/model")
    """Where the artifact is."""
    host: str = "0.0.0.0"  # noqa: S104 - a container listens on every interface; its publisher narrows it
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; SAGEMAKER_BIND_TO_PORT overrides it."""
    engine: str = "auto"
    """auto: the fastest the artifact and the machine offer. Or a name (eager), to force it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    cuda_graphs: Literal["auto", "off"] = "auto"
    """On a GPU, run each batch size as one recorded CUDA graph. off: for who meets a driver that recording breaks, or needs
    the memory the graphs hold for larger batches."""
    model_processes: Annotated[int, Field(ge=0, le=64)] = 0
    """0: one per GPU, or one per core with one thread each (most requests per second). 1 on a CPU gives one process all cores:
    half the latency of a single request on two cores, a quarter less throughput."""
    slots: Annotated[int, Field(ge=0, le=4096)] = 0
    """Photos that may wait or be computed at once; more get 503. 0 derives it from cores and devices. Each
    front has as many, so it is rounded up to a multiple of the fronts."""
    max_batch: Annotated[int, Field(ge=1, le=256)] | None = None
    """Largest batch of one forward pass; by default 8 on a CPU, which gains nothing from more, and 32 on a GPU. Lower it where
    a large model takes too long for 32 photos or lacks the memory, raise it for a small one on a large GPU."""
    fronts: Annotated[int, Field(ge=0, le=64)] = 0
    """HTTP processes; 0 is one per core."""
    request_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 55.0
    """A request not answered by then gets 504; SageMaker itself gives up after 60 s."""
    graceful_timeout_seconds: Annotated[float, Field(gt=0)] = 25.0
    """After SIGTERM, accepted requests have this long; SageMaker kills after 30 s."""
    stuck_after_seconds: Annotated[float, Field(gt=0)] = 30.0
    """A model process that shows no life for so long is killed and replaced. Raise it where one batch takes longer."""
    load_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 480.0
    """A model process that is not ready by then is replaced. SageMaker itself waits 8 minutes for the first 200 of /ping: for a
    model that takes longer raise it together with the endpoint's ContainerStartupHealthCheckTimeoutInSeconds; [endpoint]
    startup_timeout_seconds of `deploy` sets both."""
    max_body_mb: Annotated[float, Field(gt=0, le=10_000)] = 25.0
    """Larger bodies get 413. SageMaker's own limit for real-time requests is 25 MB."""
    transform_payload_mb: Annotated[float, Field(ge=1, le=100)] = 6.0
    """What batch transform is told to send at most in one request. Raise it (or MaxPayloadInMB of the job, which sets it) where
    single photos are larger; 100 MB may be under way at once, so the larger, the fewer."""
    max_pixels: Annotated[int, Field(gt=0)] = 100_000_000
    """Photos with more pixels get 413."""
    top_k: Annotated[int, Field(ge=1)] = 5
    """How many classes the answer's top list names."""
    max_instances: Annotated[int, Field(ge=1)] = 1024
    """Photos in one request (JSON, JSON Lines, multipart); more get 413."""
    multi_model: bool = False
    """SageMaker's multi-model endpoint; SAGEMAKER_MULTI_MODEL sets it."""

    def largest_batch(self, *, gpu: bool) -> int:
        """`max_batch`, or its default for where models run."""
        return self.max_batch or (_GPU_BATCH if gpu else _CPU_BATCH)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1024 * 1024)

    @property
    def body_memory_bytes(self) -> int:
        """Of all bodies that one front holds at once: twenty of the largest by default, two of them where they are larger."""
        return max(512 * 1024 * 1024, 2 * self.max_body_bytes)


def from_environment(environ: Mapping[str, str], **overrides: Any) -> ServeConfig:
    """Raises ConfigError naming every variable that cannot be used. `overrides` (flags) win over the environment."""
    raw: dict[str, Any] = {k.removeprefix(PREFIX).lower(): v for k, v in environ.items() if k.startswith(PREFIX)}
    if port := environ.get("SAGEMAKER_BIND_TO_PORT"):
        raw["port"] = port
    if environ.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
        raw["multi_model"] = True
    if environ.get("SAGEMAKER_BATCH", "").lower() == "true":  # a transform may send 100 MB and wait an hour
        if (payload := environ.get("SAGEMAKER_MAX_PAYLOAD_IN_MB") or "0") != "0":  # 0: no limit of the job's
            raw.setdefault("transform_payload_mb", payload)
            raw.setdefault("max_body_mb", payload)
        raw.setdefault("max_body_mb", "100")
        raw.setdefault("request_timeout_seconds", "3540")
    raw.update({name: value for name, value in overrides.items() if value is not None})
    return parse(ServeConfig, raw, where="serving settings (SERVE_… variables and flags)")
