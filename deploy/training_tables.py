"""The stage's tables of what trains: `[training]`, a SageMaker job, and `[ec2]`, the same job on plain instances."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from containers.core.settings import Settings
from deploy.instance_types import has_gpu
from deploy.stage_tables import Ec2Type, EndpointType


class InstanceGroup(Settings):
    """Machines of one type in a SageMaker job of several ("Train Using a Heterogeneous Cluster")."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$", max_length=64)]
    """What SageMaker calls it, and tells the job."""
    instance_type: EndpointType
    """Which machine."""
    instance_count: Annotated[int, Field(ge=1, le=100)] = 1
    """How many of it."""


class Training(Settings):
    """A SageMaker training job; `[ec2]` is the same job on plain instances."""

    instance_type: EndpointType = "ml.g4dn.2xlarge"
    """Which machine trains."""
    instance_count: Annotated[int, Field(ge=1, le=100)] = 2
    """Machines in one job."""
    instance_groups: Annotated[tuple[InstanceGroup, ...], Field(max_length=5)] = ()
    """Instead of instance_type and instance_count: machines of several types that train as one job, for whoever gets too few of
    one type."""
    spot: bool = True
    """Managed spot: about a third of the price; interruptions resume from the checkpoint."""
    volume_gb: Annotated[int, Field(ge=1)] = 100
    """Disk; ignored by types with their own (g4dn)."""
    max_runtime_seconds: Annotated[int, Field(ge=60, le=28 * 86400)] = 6 * 3600
    """The job is stopped after this much running time."""
    max_wait_seconds: Annotated[int, Field(ge=60)] = 12 * 3600
    """With spot: running and waiting together."""
    keep_alive_seconds: Annotated[int, Field(ge=0, le=21600)] = 0
    """Warm pool: keep machines for the next job. Needs a quota; on-demand only."""
    input_mode: Literal["File", "FastFile"] = "File"
    """FastFile starts without copying; reads are slower."""
    encrypt_between_hosts: bool = False
    """Costs speed."""

    @model_validator(mode="after")
    def _spot(self) -> Self:
        if self.spot and self.max_wait_seconds < self.max_runtime_seconds:
            raise ValueError("max_wait_seconds must be at least max_runtime_seconds")
        if self.spot and self.keep_alive_seconds:
            raise ValueError("a warm pool (keep_alive_seconds) and spot exclude each other")
        return self

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if not self.instance_groups:
            return self
        if own := sorted(self.model_fields_set & {"instance_type", "instance_count"}):
            raise ValueError(
                f"instance_groups takes the place of instance_type and instance_count: leave out {' and '.join(own)}"
            )
        names = [group.name for group in self.instance_groups]
        if len(set(names)) < len(names):
            raise ValueError("each of instance_groups needs a name of its own")
        if len({has_gpu(group.instance_type) for group in self.instance_groups}) > 1:
            raise ValueError("the machines of all instance_groups have GPUs, or those of none: a mixture cannot train together")
        if self.keep_alive_seconds:  # developer guide, "SageMaker AI Managed Warm Pools", Considerations
            raise ValueError("SageMaker keeps no warm pool (keep_alive_seconds) of instance_groups")
        return self

    @property
    def machines(self) -> tuple[InstanceGroup, ...]:
        """What the job runs on, group by group."""
        one = InstanceGroup(name="machines", instance_type=self.instance_type, instance_count=self.instance_count)
        return self.instance_groups or (one,)

    @property
    def hosts(self) -> int:
        return sum(group.instance_count for group in self.machines)

    @property
    def said(self) -> str:
        """For people: 2 × ml.g4dn.xlarge + 1 × ml.g4dn.12xlarge."""
        return " + ".join(f"{group.instance_count} × {group.instance_type}" for group in self.machines)


class Ec2(Settings):
    instance_type: Ec2Type = "g4dn.2xlarge"
    """Which machine trains; deployer policies allow its family only."""
    instance_count: Annotated[int, Field(ge=1, le=16)] = 1
    """Nodes of one job."""
    spot: bool = False
    """Spot machines; a notice checkpoints first."""
    ami_parameter: str = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
    """SSM parameter that holds the machine image."""
    volume_gb: Annotated[int, Field(ge=30)] = 100
    """Root disk, encrypted."""
    max_minutes: Annotated[int, Field(ge=5, le=7 * 1440)] = 360
    """The machine ends itself after this, whatever happens."""
