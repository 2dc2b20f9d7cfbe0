"""One training job, however it was started: what the two front doors (`sagemaker`, `__main__`) make and workers read.

Torch-free and serialisable: the launcher writes it to `JobPaths.job_file`, each worker reads it from there.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from containers.train.config import TrainConfig


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobPaths(_Part):
    """Where a job writes. On SageMaker everything is below /opt/ml; `scratch_dir` is local, fast and lost afterwards."""

    model_dir: Path
    output_dir: Path
    checkpoint_dir: Path
    failure_file: Path
    scratch_dir: Path

    @property
    def tensorboard_dir(self) -> Path:
        """Beside the failure file: on SageMaker /opt/ml/output/tensorboard, where it looks, else in the output folder."""
        return self.failure_file.with_name("tensorboard")

    @property
    def job_file(self) -> Path:
        return self.scratch_dir / "job.json"

    @property
    def index_file(self) -> Path:
        """The dataset index that preflight made (`index.DatasetIndex`)."""
        return self.scratch_dir / "index.json"

    @property
    def stop_file(self) -> Path:
        """Exists from the moment the job was asked to stop."""
        return self.scratch_dir / "stop_requested"


def scratch_dir(job_name: str) -> Path:
    """Of this process alone, so that two jobs on one machine never share it; TMPDIR decides where it lies."""
    return Path(tempfile.gettempdir()) / f"kennel-{re.sub('[^A-Za-z0-9-]', '-', job_name)}-{os.getpid()}"


class Cluster(_Part):
    """Who is in the job. `hosts` is sorted; `hosts[0]` hosts the rendezvous, and roles otherwise follow RANK only."""

    hosts: tuple[str, ...] = ("localhost",)
    current_host: str = "localhost"
    network_interface: str | None = None
    """None where the name given does not exist here: the libraries then choose."""
    rendezvous_port: int = 29400
    processes_per_host: int = Field(default=0, ge=0)
    """On this host; others may have other numbers. 0: one per GPU, or one on a CPU host."""
    instance_group: str | None = None
    """What SageMaker calls this host's kind of instance, where the job has several."""

    @property
    def node_rank(self) -> int:
        return self.hosts.index(self.current_host)

    @property
    def rendezvous_host(self) -> str:
        return self.hosts[0]


class TrainingJob(_Part):
    name: str
    config: TrainConfig
    cluster: Cluster = Cluster()
    paths: JobPaths
    channels: dict[str, Path]
    """Channel name → directory: `train`, and where given `valid`, `test` and `pretrained`."""
    device: str = "auto"

    def write(self) -> None:
        self.paths.scratch_dir.mkdir(parents=True, exist_ok=True)
        self.paths.job_file.write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
