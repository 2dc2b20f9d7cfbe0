"""The alarms. Two of them also roll a release back, so they look at the server's faults, never at a client's bad photo."""

from typing import Any

from deploy.autoscaling import WakeUp
from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.names import ALIAS, VARIANT, Names
from deploy.storage import tag_list


class Alarm(Resource):
    """`definition` is PutMetricAlarm's arguments without name, actions and tags."""

    def __init__(self, context: Context, what: str, definition: State) -> None:
        super().__init__(context)
        self._cloudwatch = context.client("cloudwatch")
        self._name = self.names.alarm(what)
        self._definition = definition

    @property
    def key(self) -> str:
        return f"alarm/{self._name}"

    def desired(self) -> State:
        topic = self.context.config.alarms.topic_arn
        return self._definition | {"ActionsEnabled": True, "AlarmActions": [topic] if topic else []}

    def observe(self) -> State | None:
        alarms = self._cloudwatch.describe_alarms(AlarmNames=[self._name])["MetricAlarms"]
        if not alarms:
            return None
        dimensions = sorted(alarms[0].get("Dimensions", []), key=lambda dimension: str(dimension["Name"]))  # a set, to AWS
        return {name: alarms[0].get(name) for name in self.desired()} | {"Dimensions": dimensions}

    def create(self) -> None:
        self._cloudwatch.put_metric_alarm(AlarmName=self._name, Tags=tag_list(self.context.tags), **self.desired())

    def update(self, changes: Changes) -> None:
        del changes
        self._cloudwatch.put_metric_alarm(AlarmName=self._name, **self.desired())

    def delete(self) -> None:
        self._cloudwatch.delete_alarms(AlarmNames=[self._name])


class WakeUpAlarm(Alarm):
    """A request waits and no instance is there: sets off `autoscaling.WakeUp`."""

    def __init__(self, context: Context, wake_up: WakeUp) -> None:
        dimensions = [{"Name": "EndpointName", "Value": context.names.endpoint}]
        definition = _definition(
            "AWS/SageMaker",
            "HasBacklogWithoutCapacity",
            dimensions,
            threshold=1,
            Statistic="Average",
            AlarmDescription="Starts an asynchronous endpoint's first instance. Runbook: docs/operations.md#endpoint-wake-up",
        )
        super().__init__(context, "endpoint-wake-up", definition)
        self._wake_up = wake_up

    def desired(self) -> State:
        return super().desired() | {"AlarmActions": [self._wake_up.arn()]}


def endpoint_alarms(context: Context) -> list[Alarm]:
    """`endpoint.ROLLBACK_ALARMS` names the two that guard a release."""
    names, wanted = context.names, context.config.alarms
    dimensions = [{"Name": "EndpointName", "Value": names.endpoint}, {"Name": "VariantName", "Value": VARIANT}]
    errors = _definition(
        "AWS/SageMaker",
        "Invocation5XXErrors",
        dimensions,
        threshold=wanted.errors_per_minute,
        Statistic="Sum",
        AlarmDescription="The endpoint answers 5XX. Runbook: docs/operations.md#endpoint-5xx",
    )
    latency = _definition(
        "AWS/SageMaker",
        "ModelLatency",
        dimensions,
        threshold=wanted.latency_p99_ms * 1000,
        ExtendedStatistic="p99",
        EvaluationPeriods=3,
        DatapointsToAlarm=3,
        AlarmDescription="The model is slow (p99, microseconds). Runbook: docs/operations.md#endpoint-latency",
    )
    return [Alarm(context, "endpoint-5xx", errors), Alarm(context, "endpoint-latency", latency)]


def function_alarms(context: Context) -> list[Alarm]:
    dimensions = _function_dimensions(context.names)
    errors = _definition(
        "AWS/Lambda",
        "Errors",
        dimensions,
        threshold=5,
        Statistic="Sum",
        AlarmDescription="The function itself fails. Runbook: docs/operations.md#function-errors",
    )
    throttles = _definition(
        "AWS/Lambda",
        "Throttles",
        dimensions,
        threshold=1,
        Statistic="Sum",
        EvaluationPeriods=3,
        DatapointsToAlarm=3,
        AlarmDescription="Calls are refused: concurrency is used up. Runbook: docs/operations.md#function-throttles",
    )
    return [Alarm(context, "function-errors", errors), Alarm(context, "function-throttles", throttles)]


def _function_dimensions(names: Names) -> list[dict[str, str]]:
    resource = {"Name": "Resource", "Value": f"{names.function}:{ALIAS}"}
    return [{"Name": "FunctionName", "Value": names.function}, resource]


def _definition(namespace: str, metric: str, dimensions: list[dict[str, str]], *, threshold: float, **more: Any) -> State:
    """Per minute; no traffic is no alarm."""
    return {
        "Namespace": namespace,
        "MetricName": metric,
        "Dimensions": sorted(dimensions, key=lambda dimension: dimension["Name"]),
        "Period": 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": float(threshold),
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    } | more
