"""The endpoint: created, moved to a new configuration behind alarms, and never believed before it is checked.

`InService` alone says nothing: an update that SageMaker rolled back also ends so, on the old configuration. Updates keep the
number of instances that scaling has reached, and a change of instance type takes the scaling target off first
(SageMaker refuses it otherwise).
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from botocore.exceptions import ClientError

from deploy import quotas, releases
from deploy.autoscaling import DIMENSION
from deploy.context import Context
from deploy.engine import Changes, Engine, Resource, State, found
from deploy.errors import DeployError, Refused
from deploy.storage import tag_list

_SETTLED = {"InService", "Failed", "OutOfService", "UpdateRollbackFailed", "Gone"}
_REPLACED = {"Failed", "UpdateRollbackFailed"}  # AWS allows nothing with it but deletion
_STALE_SECONDS = 30.0  # after a call, DescribeEndpoint may answer as before it for so long (docs/decisions/025)
_TO_ROLL_BACK_SECONDS = 900.0  # after its own limit SageMaker rolls back, and the command is there to see it
ROLLBACK_ALARMS = ("endpoint-5xx", "endpoint-latency")


class Configuration(Protocol):
    """A wanted one (`serving.EndpointConfig`) or one that exists (`rollback.Existing`); `request` as CreateEndpointConfig's."""

    @property
    def name(self) -> str: ...

    @property
    def request(self) -> dict[str, Any]: ...


class Endpoint(Resource):
    """`config` may be None where only `delete` is called. Not `proven`: something after this will say whether it has served.

    `scaling` is everything that goes with the scaling target, to put it back where an update took it off and failed.
    Not `guarded`: the update goes back to what has served, at once and without alarms, for they measure what it leaves.
    """

    def __init__(
        self,
        context: Context,
        config: Configuration | None,
        *,
        proven: bool = True,
        guarded: bool = True,
        scaling: Sequence[Resource] = (),
    ) -> None:
        super().__init__(context)
        self._sagemaker = context.client("sagemaker")
        self._config = config
        self._proven, self._guarded, self._scaling = proven, guarded, scaling
        self._begun = False  # somebody's update to the wanted configuration was under way when it was observed
        self._sent_at = -math.inf  # when CreateEndpoint or UpdateEndpoint was last answered
        self._seen: dict[str, Any] = {}  # what `_wait` saw last
        self._name = self.names.endpoint

    @property
    def key(self) -> str:
        return f"endpoint/{self._name}"

    @property
    def _wanted(self) -> Configuration:
        if self._config is None:
            raise DeployError(self.key, "there is no release to serve", hint="`python -m deploy release`")
        return self._config

    def desired(self) -> State:
        noted = {"outcome_noted": True} if self._proven else {}
        return {"config": self._wanted.name, "status": "InService"} | noted

    def observe(self) -> State | None:
        """`outcome_noted`: the configuration's tags say that it has served; False only after an interruption."""
        endpoint = found(self._sagemaker.describe_endpoint, EndpointName=self._name)
        if endpoint is None:
            return None
        config = endpoint["EndpointConfigName"]
        self._begun = self._begun or (self._config is not None and releases.moving_to(endpoint) == self._config.name)
        noted = releases.outcome(self.context, config) != ""
        return {"config": config, "status": endpoint["EndpointStatus"], "outcome_noted": noted}

    def check(self) -> None:
        """An endpoint cannot change between serverless, asynchronous and the rest while it lives. A failed one is replaced."""
        seen = self.observe()
        if seen and seen["status"] in _REPLACED:
            seen = None
        live = seen and self._describe_config(seen["config"])
        if live and _kind(live) != _kind(self._wanted.request):
            hint = "`python -m deploy destroy` (the data stays), then release again"
            raise Refused(self.key, f"a {_kind(live)} endpoint cannot become {_kind(self._wanted.request)}", hint=hint)
        if seen is None or seen["config"] != self._wanted.name:
            quotas.require_endpoint(self.context, self.key, self._live_variant() if live else None)

    def create(self) -> None:
        request = {"EndpointName": self._name, "EndpointConfigName": self._wanted.name, "Tags": tag_list(self.context.tags)}
        self.context.patiently("its configuration", lambda: self._sagemaker.create_endpoint(**request))
        self._sent_at = self.context.clock.monotonic()

    def update(self, changes: Changes) -> None:
        del changes  # what was in flight when it was observed may have ended since
        status = self._wait("finishes what was begun before")
        if status in _REPLACED:
            self.delete()
            self.create()
        elif status == "Gone":
            self.create()
        elif self._live_config() != self._wanted.name and not self._begun:  # else it was rolled back: `settle` says so
            self._move()

    def _move(self) -> None:
        live = self._describe_config(self._live_config())
        if live is None or live["ProductionVariants"][0].get("InstanceType") != self._wanted_variant.get("InstanceType"):
            self._unscale()
        excluded = ["DataCaptureConfig"]  # capture follows the new configuration, the instance count follows scaling
        if self.context.config.scaling.profile == "none":
            excluded.append("DesiredInstanceCount")
        request = self._deployment() | {
            "EndpointName": self._name,
            "EndpointConfigName": self._wanted.name,
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": kind} for kind in excluded],
        }
        try:
            self.context.patiently("its configuration", lambda: self._sagemaker.update_endpoint(**request))
            self._sent_at = self.context.clock.monotonic()
        except ClientError:
            self._scale_again()
            raise

    def settle(self) -> None:
        status = self._wait(f"becomes {self._wanted.name}")
        live = self._seen
        on = live.get("EndpointConfigName", "nothing")
        if status == "InService" and on == self._wanted.name:
            if self._proven and releases.outcome(self.context, on) != releases.WRONG:
                releases.serves(self.context, on)
            return
        reason = live.get("FailureReason") or "SageMaker gave no reason"
        logs = f"`python -m deploy logs endpoint`, then {self.names.endpoint_log_group} in CloudWatch"
        if status == "InService":
            self._scale_again()
            raise DeployError(self.key, f"SageMaker rolled the update back; it still serves {on}: {reason}", hint=logs)
        raise DeployError(self.key, f"ended as {status}: {reason}", hint=logs)

    def delete(self) -> None:
        if self._wait("can be deleted") == "Gone":
            return
        self._sagemaker.delete_endpoint(EndpointName=self._name)
        self._wait("is gone", until={"Gone"})

    def _unscale(self) -> None:
        if self._scales():
            self.context.client("application-autoscaling").deregister_scalable_target(
                ServiceNamespace="sagemaker", ResourceId=self.names.variant_resource, ScalableDimension=DIMENSION
            )

    def _scale_again(self) -> None:
        """After an update that failed, what serves on needs the target again, and what went with it."""
        if self._scales():
            return
        try:
            list(Engine(self._scaling).apply())
        except DeployError as error:  # the update's own failure is the one to tell
            self.context.say(f"scaling could not be put back, `apply` will: {error}")

    def _scales(self) -> bool:
        answer = self.context.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[self.names.variant_resource]
        )
        return bool(answer["ScalableTargets"])

    @property
    def _wanted_variant(self) -> dict[str, Any]:
        return dict(self._wanted.request["ProductionVariants"][0])

    def _deployment(self) -> State:
        """Traffic moves in steps, watched by alarms, where SageMaker offers it: for real-time and asynchronous endpoints only
        (its guide, "Deployment guardrails"). Without an instance there is no traffic to move: it says nothing of steps of none.
        """
        rollout, endpoint = self.context.config.rollout, self.context.config.endpoint
        if endpoint.kind == "serverless" or self._live_variant().get("DesiredInstanceCount") == 0:
            return {}
        deployment: State = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": self._traffic(),
                "TerminationWaitInSeconds": rollout.termination_wait_seconds,
                "MaximumExecutionTimeoutInSeconds": endpoint.update_limit_minutes * 60,
            }
        }
        if self._guarded and (alarms := self._quiet_alarms()):
            deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarms]}
        return {"DeploymentConfig": deployment}

    def _traffic(self) -> State:
        rollout = self.context.config.rollout
        if not self._guarded:
            return {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
        kind = rollout.traffic.upper().replace("ALL-AT-ONCE", "ALL_AT_ONCE")
        traffic: State = {"Type": kind, "WaitIntervalInSeconds": rollout.wait_seconds}
        share = {"Type": "CAPACITY_PERCENT", "Value": rollout.percent}
        if rollout.traffic == "canary":
            traffic["CanarySize"] = share
        elif rollout.traffic == "linear":
            traffic["LinearStepSize"] = share
        return traffic

    def _quiet_alarms(self) -> list[str]:
        """An alarm that rings already says nothing about the new release, and would send the remedy back."""
        names = [self.names.alarm(what) for what in ROLLBACK_ALARMS]
        rows = self.context.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
        ringing = {row["AlarmName"] for row in rows if row["StateValue"] == "ALARM"}
        for name in sorted(ringing):
            self.context.say(f"alarm {name} rings already, so it does not guard this update")
        return [row["AlarmName"] for row in rows if row["AlarmName"] not in ringing]

    def _live_config(self) -> str:
        return str(self._sagemaker.describe_endpoint(EndpointName=self._name)["EndpointConfigName"])

    def _live_variant(self) -> dict[str, Any]:
        """As it runs: its type, and how many there are now."""
        seen = self._sagemaker.describe_endpoint(EndpointName=self._name)
        config = self._describe_config(seen["EndpointConfigName"]) or {"ProductionVariants": [{}]}
        running: dict[str, Any] = next(iter(seen.get("ProductionVariants", [])), {})
        count = {key: running[key] for key in ("DesiredInstanceCount",) if key in running}
        return dict(config["ProductionVariants"][0]) | count

    def _describe_config(self, name: str) -> dict[str, Any] | None:
        """None where it is gone, or somebody's own: whoever deploys this stage may read no others."""
        if not self.names.is_content_name(name):
            return None
        return found(self._sagemaker.describe_endpoint_config, EndpointConfigName=name)

    def _wait(self, what: str, until: set[str] | None = None) -> str:
        def status() -> str:
            self._seen = found(self._sagemaker.describe_endpoint, EndpointName=self._name) or {}
            return "not begun" if self._may_be_stale() else str(self._seen.get("EndpointStatus", "Gone"))

        limit = self.context.config.endpoint.update_limit_minutes * 60.0 + _TO_ROLL_BACK_SECONDS
        return self.context.wait(f"{self.key} {what}", status, until=until or _SETTLED, limit_seconds=limit)

    def _may_be_stale(self) -> bool:
        """What was seen knows nothing of the call that was answered a moment ago."""
        if self.context.clock.monotonic() - self._sent_at > _STALE_SECONDS:
            return False
        stands = self._seen.get("EndpointStatus") in ("InService", "OutOfService") and not releases.moving_to(self._seen)
        return not self._seen or (stands and self._seen["EndpointConfigName"] != self._wanted.name)


def _kind(request: dict[str, Any]) -> str:
    """Of an endpoint configuration, as given or as described."""
    if request.get("AsyncInferenceConfig"):
        return "asynchronous"
    return "serverless" if request["ProductionVariants"][0].get("ServerlessConfig") else "real-time"
