"""The tables of a stage's file, one class each; `deploy.config` reads them. Every setting says who would change it. Those of
training are in `training_tables`.
"""

import ipaddress
import math
import re
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from containers.core.settings import Settings
from deploy.scaling_schedule import ScheduledAction

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=20)]
EndpointType = Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")]
Ec2Type = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+\.[a-z0-9-]+$")]
KeyArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9a-f-]+$")]
Cooldown = Annotated[int, Field(ge=0, le=3600)]
_PRIVATE = [ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]


def _caller(text: str) -> str:
    """A security group's id, or a private IPv4 range as EC2 writes it. Raises ValueError."""
    if re.fullmatch(r"sg-[0-9a-f]+", text):
        return text
    network = ipaddress.IPv4Network(text)  # ValueError says what is wrong with it
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise ValueError(f"{text} is not a private range: the port is for callers inside your network")
    return str(network)


def _not_reserved(text: str) -> str:
    """EC2 takes no security group named sg-…, S3 no bucket named sthree-… or amzn-s3-demo-…; ours begin with the project."""
    if taken := [start for start in ("sg-", "sthree-", "amzn-s3-") if f"{text}-".startswith(start)]:
        raise ValueError(f"AWS keeps names that begin with {taken[0]} for itself: choose another")
    return text


def _tag_value(text: str) -> str:
    r"""IAM's pattern, [\p{L}\p{Z}\p{N}_.:/=+\-@]*, the strictest of the services that we tag. Raises ValueError."""
    if bad := sorted({letter for letter in text if unicodedata.category(letter)[0] not in "LZN" and letter not in "_.:/=+-@"}):
        raise ValueError(f"{' '.join(bad)} cannot be part of a tag: letters, digits, spaces and _ . : / = + - @ can")
    return text


def _region(text: str) -> str:
    """By AWS's pattern of all partitions: a region newer than botocore's list is one, too. Raises ValueError."""
    if not re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-[0-9]+", text):
        raise ValueError("is no region of AWS's: they look like eu-west-1")
    return text


class Stage(Settings):
    project: Annotated[Name, AfterValidator(_not_reserved)] = "kennel"
    """Start of every name. Change it to run two projects in one account."""
    region: Annotated[str, AfterValidator(_region)]
    """Where everything lives."""
    account: Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")] | None = None
    """Refuse to work with credentials of any other account."""
    owner: Annotated[str, StringConstraints(max_length=256), AfterValidator(_tag_value)] = ""
    """Tag on everything: whom to ask."""
    price_ceiling_per_month: Annotated[float, Field(ge=0)] = 1000.0
    """US dollars. A plan whose worst month costs more needs --yes-cost; so does one job that can cost more by itself."""


class Storage(Settings):
    checkpoint_days: Annotated[int, Field(ge=1)] = 14
    """Checkpoints older than this are deleted."""
    capture_days: Annotated[int, Field(ge=1)] = 30
    """Captured requests and asynchronous answers older than this are deleted."""
    noncurrent_days: Annotated[int, Field(ge=1)] = 30
    """Overwritten or deleted objects can be restored for this long; checkpoints, overwritten every epoch, for a day."""
    keep_images: Annotated[int, Field(ge=1, le=1000)] = 20
    """Tagged images kept per repository; untagged ones go after a week."""


class Security(Settings):
    kms_key_arn: KeyArn | None = None
    """Encrypt bucket and volumes with this key instead of AWS's own."""
    earlier_kms_key_arns: tuple[KeyArn, ...] = ()
    """Keys that were kms_key_arn once. Whoever changes that lists the old one here while anything it encrypted is used."""
    subnet_ids: tuple[str, ...] = ()
    """Run training and endpoint in these private subnets. Set both or none."""
    security_group_ids: tuple[str, ...] = ()
    """Security groups for the same."""
    boundary: bool = True
    """Create a permission boundary and put it on every role. Off where the organisation gives its own."""
    boundary_arn: str | None = None
    """The organisation's own boundary, instead of ours."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.subnet_ids) != bool(self.security_group_ids):
            raise ValueError("subnet_ids and security_group_ids go together")
        return self


class Ec2Serving(Settings):
    """`release --on ec2`: one instance that serves on a private port, of the machine image that `[ec2]` names."""

    instance_type: Ec2Type = "g4dn.xlarge"
    """Which machine serves; deployer policies allow its family only."""
    volume_gb: Annotated[int, Field(ge=30)] = 100
    """Root disk, encrypted; the image takes 7 GB of it."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Where callers reach it."""
    callers: tuple[Annotated[str, AfterValidator(_caller)], ...] = ()
    """Private IPv4 ranges and security groups that may reach the port, besides what carries the stage's own serving group."""
    start_minutes: Annotated[int, Field(ge=5, le=120)] = 20
    """To pull the image, fetch the model and answer /ping, or the instance ends itself; a restarted container has as long.
    The server gives a load up after two fifths of it."""


class Endpoint(Settings):
    kind: Literal["real-time", "serverless", "async", "multi-model"] = "real-time"
    """async scales to zero; serverless has no GPU; multi-model serves every artifact under one prefix, on CPUs."""
    instance_type: EndpointType = "ml.g4dn.xlarge"
    """Of real-time, async and multi-model."""
    startup_timeout_seconds: Annotated[int, Field(ge=60, le=3600)] = 600
    """Until the first /ping must answer 200. For models slow to load: the server gives a load up after four fifths of it."""
    download_timeout_seconds: Annotated[int, Field(ge=60, le=3600)] = 600
    """For the model's archive."""
    update_limit_minutes: Annotated[int, Field(ge=10, le=480)] = 60
    """After this SageMaker rolls a blue/green update back. Raise it with [rollout]'s waits, or for models slow to start."""
    capture_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of requests and answers written to the bucket; 0 is off. Photos may be personal data."""
    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] = 4096
    """Of serverless."""
    max_concurrency: Annotated[int, Field(ge=1, le=200)] = 10
    """Of serverless: requests at once. Of async: per instance."""
    keep_releases: Annotated[int, Field(ge=1, le=20)] = 3
    """Releases that `rollback --to` can go back to, besides the live one."""


class Rollout(Settings):
    traffic: Literal["canary", "linear", "all-at-once"] = "canary"
    """How a new release takes over. With one instance every way is all at once in effect."""
    percent: Annotated[int, Field(ge=1, le=50)] = 10
    """First share (canary), or each step (linear; at least 10)."""
    wait_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """Alarms are watched this long before the next step."""
    termination_wait_seconds: Annotated[int, Field(ge=0, le=3600)] = 120
    """Old instances stay this long after the last step."""

    @property
    def waits_seconds(self) -> int:
        """What an update takes in waiting alone, its new instances not counted."""
        steps = {"canary": 2, "linear": math.ceil(100 / self.percent), "all-at-once": 1}[self.traffic]
        return (steps - 1) * self.wait_seconds + self.termination_wait_seconds

    @model_validator(mode="after")
    def _linear(self) -> Self:
        if self.traffic == "linear" and self.percent < 10:
            raise ValueError("percent must be 10 to 50 with linear traffic")
        return self


class Scaling(Settings):
    profile: Literal["concurrency", "seed", "none"] = "concurrency"
    """concurrency: requests in flight per instance, 10 s data. seed: 30 invocations per instance per minute, 30 s cooldowns."""
    minimum: Annotated[int, Field(ge=0)] = 1
    """Fewest instances; 0 only for async."""
    maximum: Annotated[int, Field(ge=1)] = 4
    """Most instances: the price ceiling follows from it."""
    target: Annotated[float, Field(gt=0)] | None = None
    """Overrides the profile's target; `loadtest` proposes one."""
    scale_in_cooldown_seconds: Cooldown | None = None
    """Overrides the profile's."""
    scale_out_cooldown_seconds: Cooldown | None = None
    """Overrides the profile's."""
    scheduled: tuple[ScheduledAction, ...] = ()
    """Other bounds from certain times on, each until the next one's time: for whoever knows when the rush comes."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError("minimum is above maximum")
        names = [action.name for action in self.scheduled]
        if len(set(names)) < len(names):
            raise ValueError("each of scheduled needs a name of its own")
        if self.scheduled and self.profile == "none":
            raise ValueError("scheduled needs a profile other than none")
        return self

    @property
    def possible(self) -> list[tuple[int, int]]:
        """(minimum, maximum): the file's own, and those that a scheduled action sets."""
        return [(self.minimum, self.maximum), *(action.bounds for action in self.scheduled)]


class Function(Settings):
    enabled: bool = True
    """The Lambda in front of the endpoint. Turn it off for an asynchronous one, whose answers come later."""
    target_model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=1024)] | None = None
    """Of multi-model: NAME.tar.gz for calls that name no model, such as S3 notifications; they are refused without it."""
    memory_mb: Annotated[int, Field(ge=128, le=10240)] = 512
    """More memory is also more CPU."""
    timeout_seconds: Annotated[int, Field(ge=5, le=900)] = 30
    """The whole call; the endpoint gets five seconds less."""
    provisioned_concurrency: Annotated[int, Field(ge=0)] = 3
    """Environments kept warm; 0 is off. New accounts have a limit of 10 in all, which refuses 3."""
    provisioned_maximum: Annotated[int, Field(ge=0)] = 0
    """Scale provisioned concurrency up to this at 70 % use; 0 keeps it constant."""
    reserved_concurrency: Annotated[int, Field(ge=0)] | None = None
    """Most calls at once: the brake that protects the endpoint."""
    url: bool = False
    """An HTTPS address that only signed requests of this account may call."""
    cors_origins: tuple[str, ...] = ()
    """Origins that browsers may call the address from."""
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 180, 365] = 30
    """Logs older than this are deleted."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.provisioned_maximum and self.provisioned_maximum < max(1, self.provisioned_concurrency):
            raise ValueError("provisioned_maximum is below provisioned_concurrency")
        if self.provisioned_maximum and not self.provisioned_concurrency:
            raise ValueError("provisioned_maximum needs a provisioned_concurrency to start from")
        both = self.provisioned_concurrency + max(self.provisioned_concurrency, self.provisioned_maximum)
        if self.reserved_concurrency is not None and both > self.reserved_concurrency:
            # Lambda counts all versions, and would refuse every apply after the first
            raise ValueError(f"reserved_concurrency must be {both} or more: for a while the old version and the new are warm")
        return self


class Alarms(Settings):
    topic_arn: str | None = None
    """SNS topic that is told of every alarm."""
    errors_per_minute: Annotated[int, Field(ge=1)] = 5
    """5XX answers of the endpoint; also rolls a release back."""
    latency_p99_ms: Annotated[int, Field(ge=1)] = 2000
    """Of the model; also rolls a release back."""
