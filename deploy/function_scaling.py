"""How many warm environments there are of the wanted version, by its use."""

from typing import Any

from deploy.autoscaling import known, put_policy
from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.function import Lambda

DIMENSION = "lambda:function:ProvisionedConcurrency"
POLICY = "provisioned-concurrency-utilization"


class ProvisionedScaling(Resource):
    """Bounds and target tracking at 70 % use, on the wanted version."""

    def __init__(self, context: Context, function: Lambda) -> None:
        super().__init__(context)
        self._function = function
        self._scaling = context.client("application-autoscaling")

    @property
    def key(self) -> str:
        return f"provisioned-scaling/{self._function.name}"

    @property
    def _where(self) -> dict[str, str]:
        resource = f"function:{self._function.name}:{self._function.wanted_version()}"
        return {"ServiceNamespace": "lambda", "ResourceId": resource, "ScalableDimension": DIMENSION}

    def desired(self) -> State:
        function = self.context.config.function
        metric = {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"}
        return {
            "bounds": [function.provisioned_concurrency, function.provisioned_maximum],
            "tracking": {"TargetValue": 0.7, "PredefinedMetricSpecification": metric},
        }

    def observe(self) -> State | None:
        where = self._where
        target = target_of(self._scaling, where["ResourceId"])
        if target is None:
            return None
        policies = self._scaling.describe_scaling_policies(
            ServiceNamespace="lambda", ResourceId=where["ResourceId"], PolicyNames=[POLICY]
        )["ScalingPolicies"]
        seen = policies[0]["TargetTrackingScalingPolicyConfiguration"] if policies else {}
        tracking = known(seen, self.desired()["tracking"])
        return {"bounds": [target["MinCapacity"], target["MaxCapacity"]], "tracking": tracking}

    def create(self) -> None:
        self._register(Tags=self.context.tags)  # only a new target takes tags
        self._track()

    def update(self, changes: Changes) -> None:
        if "bounds" in changes:
            self._register()
        if "tracking" in changes:
            self._track()

    def exists(self) -> bool:
        return bool(self._targets())

    def delete(self) -> None:
        """Of every version."""
        for resource in self._targets():
            self._scaling.deregister_scalable_target(
                ServiceNamespace="lambda", ResourceId=resource, ScalableDimension=DIMENSION
            )

    def _targets(self) -> list[str]:
        pages = self._scaling.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="lambda")
        rows = [row["ResourceId"] for page in pages for row in page["ScalableTargets"]]
        return [row for row in rows if row.startswith(f"function:{self._function.name}:")]

    def _register(self, **more: Any) -> None:
        low, high = self.desired()["bounds"]
        request = {"MinCapacity": low, "MaxCapacity": high} | more | self._where
        role = "the role of Application Auto Scaling"
        self.context.patiently(role, lambda: self._scaling.register_scalable_target(**request))

    def _track(self) -> None:
        policy = {
            "PolicyName": POLICY,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": self.desired()["tracking"],
        }
        put_policy(self.context, policy | self._where)


def target_of(scaling: Any, resource: str) -> dict[str, int] | None:
    """Its bounds, None where the resource does not scale."""
    targets = scaling.describe_scalable_targets(ServiceNamespace="lambda", ResourceIds=[resource])
    return next(iter(targets["ScalableTargets"]), None)
