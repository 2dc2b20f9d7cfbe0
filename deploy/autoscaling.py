"""How many instances the endpoint has.

`SageMakerVariantInvocationsPerInstance` counts per minute: the seed's target of 30 is one request every two seconds per
instance. The default profile tracks requests in flight instead, every 10 seconds, which is right for long and uneven requests.
"""

from dataclasses import dataclass
from typing import Any

from deploy.config import StageConfig
from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.scaling_schedule import in_force

WAKE_UP = "wake-up"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
POLICY = "SageMakerEndpointInvocationScalingPolicy"  # the console shows policies of this name only (boto3 issue 2839)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`metric` is a predefined metric type; cooldowns in seconds."""

    metric: str
    target: float
    scale_in: int
    scale_out: int
    meaning: str


def profile(config: StageConfig) -> Profile:
    """The stage's scaling with the overrides of `[scaling]` applied."""
    scaling = config.scaling
    batch = config.serving.largest_batch(gpu=False)  # on a GPU too: the cores that decode are full before its batches are
    if scaling.profile == "seed":
        base = Profile(metric="SageMakerVariantInvocationsPerInstance", target=30.0, scale_in=30, scale_out=30, meaning="")
    else:
        base = Profile(
            metric="SageMakerVariantConcurrentRequestsPerModelHighResolution",
            target=round(0.7 * batch, 1),  # a new instance is on its way before a batch is full
            scale_in=300,
            scale_out=60,
            meaning="",
        )
    target = scaling.target or base.target
    if scaling.profile == "seed":
        meaning = f"{target:g} invocations per minute and instance, that is {target / 60:.2g} requests/s each"
    else:
        meaning = f"{target:g} requests in flight per instance"
    return Profile(
        metric=base.metric,
        target=target,
        scale_in=base.scale_in if scaling.scale_in_cooldown_seconds is None else scaling.scale_in_cooldown_seconds,
        scale_out=base.scale_out if scaling.scale_out_cooldown_seconds is None else scaling.scale_out_cooldown_seconds,
        meaning=meaning,
    )


def variant_target(context: Context) -> dict[str, str]:
    """How Application Auto Scaling names the number of the endpoint's instances."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": context.names.variant_resource,
        "ScalableDimension": DIMENSION,
    }


class ScalableTarget(Resource):
    """The bounds. Application Auto Scaling's resources have tags, but no state besides these two numbers.

    Scheduled actions change them in AWS, and that is no drift: any pair that the file or one of its actions names is left
    alone. Where they must be set (a new target, a change by hand), they become what the schedule has by the clock.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._client = context.client("application-autoscaling")
        self._where = variant_target(context)

    @property
    def key(self) -> str:
        return f"scaling-target/{self.names.endpoint}"

    def desired(self) -> State:
        scaling = self.context.config.scaling
        action = in_force(scaling.scheduled, self.context.clock.now())
        low, high = action.bounds if action else (scaling.minimum, scaling.maximum)
        return {"minimum": low, "maximum": high}

    def observe(self) -> State | None:
        targets = self._client.describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[self.names.variant_resource], ScalableDimension=DIMENSION
        )["ScalableTargets"]
        if not targets:
            return None
        seen = targets[0]["MinCapacity"], targets[0]["MaxCapacity"]
        if seen in self.context.config.scaling.possible:
            return self.desired()
        return {"minimum": seen[0], "maximum": seen[1]}

    def create(self) -> None:
        self._register(Tags=self.context.tags)  # only a new target takes tags

    def update(self, changes: Changes) -> None:
        del changes
        self._register()

    def delete(self) -> None:
        """Takes its policies, their alarms and its scheduled actions with it."""
        self._client.deregister_scalable_target(**self._where)

    def _register(self, **more: Any) -> None:
        wanted = self.desired()
        bounds = {"MinCapacity": wanted["minimum"], "MaxCapacity": wanted["maximum"]}
        register = self._client.register_scalable_target
        self.context.patiently("the role of Application Auto Scaling", lambda: register(**bounds, **self._where, **more))


class TrackingPolicy(Resource):
    """Keeps the profile's metric at its target; for an asynchronous endpoint, the backlog per instance."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._client = context.client("application-autoscaling")

    @property
    def key(self) -> str:
        return f"scaling-policy/{self.names.endpoint}/{POLICY}"

    def desired(self) -> State:
        config = self.context.config
        wanted = profile(config)
        tracking: State = {"ScaleInCooldown": wanted.scale_in, "ScaleOutCooldown": wanted.scale_out}
        if config.endpoint.kind == "async":
            tracking["TargetValue"] = config.scaling.target or 5.0
            tracking["CustomizedMetricSpecification"] = {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": self.names.endpoint}],
                "Statistic": "Average",
            }
        else:
            tracking["TargetValue"] = wanted.target
            tracking["PredefinedMetricSpecification"] = {"PredefinedMetricType": wanted.metric}
        return {"tracking": tracking}

    def observe(self) -> State | None:
        policy = _policy(self._client, self.names.variant_resource, POLICY)
        return policy and {"tracking": known(policy["TargetTrackingScalingPolicyConfiguration"], self.desired()["tracking"])}

    def create(self) -> None:
        tracking = {
            "PolicyName": POLICY,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": self.desired()["tracking"],
        }
        put_policy(self.context, tracking | variant_target(self.context))

    def update(self, changes: Changes) -> None:
        del changes
        self.create()

    def delete(self) -> None:
        """Goes with the target."""


class WakeUp(Resource):
    """From no instance to one when a request waits: target tracking cannot, it divides by the number of instances."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._client = context.client("application-autoscaling")

    @property
    def key(self) -> str:
        return f"scaling-policy/{self.names.endpoint}/{WAKE_UP}"

    def desired(self) -> State:
        step = {"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}
        return {"step": {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [step], "Cooldown": 300}}

    def observe(self) -> State | None:
        policy = _policy(self._client, self.names.variant_resource, WAKE_UP)
        return policy and {"step": known(policy["StepScalingPolicyConfiguration"], self.desired()["step"])}

    def create(self) -> None:
        step = {
            "PolicyName": WAKE_UP,
            "PolicyType": "StepScaling",
            "StepScalingPolicyConfiguration": self.desired()["step"],
        }
        put_policy(self.context, step | variant_target(self.context))

    def update(self, changes: Changes) -> None:
        del changes
        self.create()

    def arn(self) -> str | None:
        """What an alarm names to set it off; None before it is made."""
        policy = _policy(self._client, self.names.variant_resource, WAKE_UP)
        return str(policy["PolicyARN"]) if policy else None

    def delete(self) -> None:
        """Goes with the target."""


def put_policy(context: Context, policy: dict[str, Any]) -> None:
    """`policy`: PutScalingPolicy's arguments. Its target was made a moment ago, in a new account the role behind it too."""
    client = context.client("application-autoscaling")
    context.patiently("the scaling target", lambda: client.put_scaling_policy(**policy))


def known(seen: State, wanted: State) -> State:
    """Of what AWS describes, that which we set: it may add its defaults (`DisableScaleIn`), which are no drift."""
    return {name: seen.get(name) for name in wanted}


def _policy(client: Any, resource: str, name: str) -> dict[str, Any] | None:
    policies = client.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=resource, PolicyNames=[name])
    return next((policy for policy in policies["ScalingPolicies"] if policy["PolicyName"] == name), None)
