"""A fake account for deploy's tests: one session for all (loading service models is the slow part), a clock that does not
wait, every call recorded, and any mutating call made to fail as if the program had been killed there.
"""

import io
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
from rich.console import Console

from deploy import config as stage_config
from deploy.context import Context
from deploy.serving import Release
from tests.support import moto_ext, moto_young, strict_parameters

ACCOUNT = "123456789012"
REGION = "eu-west-1"
READS = re.compile(r"^(Describe|Get|List|Head|BatchGet|Lookup)")
STAGE = {"stage": {"region": REGION, "owner": "vision", "price_ceiling_per_month": 5000}}

os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
    os.environ.pop(name, None)


class Killed(BaseException):
    """The program ended here."""


@dataclass(frozen=True)
class Call:
    service: str
    operation: str
    parameters: dict

    @classmethod
    def of(cls, params, model) -> "Call":
        """What botocore's `provide-client-params` tells."""
        return cls(model.service_model.signing_name, model.name, dict(params))

    @property
    def writes(self) -> bool:
        return READS.match(self.operation) is None

    def __str__(self) -> str:
        return f"{self.service}:{self.operation}"


@dataclass
class Recorder:
    calls: list[Call] = field(default_factory=list)
    kill_at_write: int | None = None
    """The n-th mutating call (from 1) raises Killed before it is sent."""

    @property
    def writes(self) -> list[str]:
        return [str(call) for call in self.calls if call.writes]

    def __call__(self, params, model, **_) -> None:
        call = Call.of(params, model)
        if call.writes and self.kill_at_write == len(self.writes) + 1:
            raise Killed
        self.calls.append(call)
        self.note(call)

    def note(self, call: Call) -> None:
        """What else is done with it before it is sent."""


class FakeClock:
    """Sleeping is free. `on_sleep` is called each time: what others do meanwhile, unrecorded."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep = lambda: None

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        recorder, SharedSession.recorder = SharedSession.recorder, None
        try:
            self.on_sleep()
        finally:
            SharedSession.recorder = recorder

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.seconds)


class SharedSession:
    """What Context needs of a boto3 session. The recorder is exchanged, clients are kept."""

    _session = None
    _clients: dict = {}  # noqa: RUF012 - shared on purpose
    recorder: Recorder | None = None

    def client(self, service, region_name=REGION, config=None):
        cls = SharedSession
        if cls._session is None:
            moto_ext.install()
            cls._session = boto3.Session(region_name=REGION)
            strict_parameters.install(cls._session)
            cls._session.events.register("before-call", moto_young.refuse)
            cls._session.events.register("provide-client-params.*.*", lambda **event: cls.recorder and cls.recorder(**event))
        if (service, region_name) not in cls._clients:
            cls._clients[service, region_name] = cls._session.client(service, region_name=region_name, config=config)
        return cls._clients[service, region_name]


class Instead:
    """A session whose every client is `service`, which the test has written."""

    def __init__(self, service) -> None:
        self._service = service
        service.meta = SimpleNamespace(events=SimpleNamespace(register=lambda *_: None))  # no answers of a network to look at

    def client(self, *_, **__):
        return self._service


def client(service, region_name=REGION):
    """For a test's own looks, unrecorded."""
    SharedSession.recorder = None
    return SharedSession().client(service, region_name)


def stage(name="dev", **tables):
    """A stage's config: STAGE with `tables` merged in."""
    merged = {table: dict(values) for table, values in STAGE.items()}
    for table, values in tables.items():
        merged[table] = merged.get(table, {}) | values
    return stage_config.load(name, merged, where="test")


class Screen(Console):
    """`text` is what people would have read."""

    def __init__(self, **options) -> None:
        super().__init__(file=io.StringIO(), width=150, **options)

    @property
    def text(self) -> str:
        return self.file.getvalue()


def context(config=None, recorder=None, session=None, **options):
    SharedSession.recorder = recorder
    session = session or SharedSession()
    return Context(config or stage(), session=session, clock=FakeClock(), console=Screen(), out=Screen(), **options)


def bare_bucket():
    """The stage's bucket without its policy: moto ignores conditions, so TLS-only would refuse every upload."""
    name = f"kennel-dev-{ACCOUNT}-{REGION}"
    client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


def release(letter="a", cuda="12.8"):
    """A release whose image digest is made of one letter."""
    host = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
    bucket = f"kennel-dev-{ACCOUNT}-{REGION}"
    return Release(
        image=f"{host}/kennel/dev/serve@sha256:{letter * 64}",
        model_data=f"s3://{bucket}/training/job-{letter}/output/model.tar.gz",
        cuda=cuda,
    )


def everything():
    """What stands in the account, by kind."""
    roles = client("iam")
    scaling = client("application-autoscaling")
    targets = [
        (row["ResourceId"], row["MinCapacity"], row["MaxCapacity"])
        for namespace in ("sagemaker", "lambda")
        for row in scaling.describe_scalable_targets(ServiceNamespace=namespace)["ScalableTargets"]
    ]
    scheduled = [
        (row["ScheduledActionName"], row["Schedule"], row["ScalableTargetAction"])
        for row in scaling.describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"]
    ]
    sagemaker = client("sagemaker")
    return {
        "roles": sorted(row["RoleName"] for row in roles.list_roles()["Roles"]),
        "policies": sorted(row["PolicyName"] for row in roles.list_policies(Scope="Local")["Policies"]),
        "profiles": [row["InstanceProfileName"] for row in roles.list_instance_profiles()["InstanceProfiles"]],
        "buckets": [row["Name"] for row in client("s3").list_buckets()["Buckets"]],
        "repositories": sorted(row["repositoryName"] for row in client("ecr").describe_repositories()["repositories"]),
        "models": [row["ModelName"] for row in sagemaker.list_models()["Models"]],
        "configs": [row["EndpointConfigName"] for row in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "endpoints": [row["EndpointName"] for row in sagemaker.list_endpoints()["Endpoints"]],
        "targets": targets,
        "scheduled": scheduled,
        "functions": [row["FunctionName"] for row in client("lambda").list_functions()["Functions"]],
        "alarms": sorted(row["AlarmName"] for row in client("cloudwatch").describe_alarms()["MetricAlarms"]),
        "log_groups": sorted(row["logGroupName"] for row in client("logs").describe_log_groups()["logGroups"]),
    }
