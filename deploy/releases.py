"""Which release is live, which ones there were, and taking the oldest away. Read from the endpoint: nothing else knows.

A configuration that has served says so in a tag: one that an update left behind when SageMaker rolled it back has none, and is
no way back. Without the tag the two look alike. One that a rollback leaves says for which other, before it is left: by this an
interrupted rollback is known, and none goes back to what an earlier one has left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State, found
from deploy.errors import DeployError
from deploy.serving import Release
from deploy.storage import tag_list

OUTCOME, TURN = "outcome", "served-as"  # tags of a configuration
SERVED, WRONG, LEFT = "served", "answered-wrongly", "left"


def leaving(target: str) -> str:
    """The outcome of a configuration that a rollback to `target` is about to leave; LEFT once it has."""
    return f"leaving-for:{target}"


@dataclass(frozen=True, kw_only=True)
class Past:
    """An endpoint configuration that still exists.

    `outcome` is SERVED, WRONG, LEFT, `leaving(…)`, or "": never served. `turn` counts what has served, in the order of time:
    a configuration keeps its name and age when it is released again. 0: never.
    """

    config: str
    created: datetime
    outcome: str
    turn: int


def live_config(context: Context) -> str | None:
    """The configuration the endpoint has, or is moving to."""
    endpoint = described(context)
    return (moving_to(endpoint) or str(endpoint["EndpointConfigName"])) if endpoint else None


def described(context: Context) -> dict[str, Any] | None:
    """The endpoint, as DescribeEndpoint has it."""
    return found(context.client("sagemaker").describe_endpoint, EndpointName=context.names.endpoint)


def moving_to(endpoint: dict[str, Any]) -> str | None:
    """The configuration that a described endpoint is being created or updated with; None where nothing is under way."""
    return (endpoint.get("PendingDeploymentSummary") or {}).get("EndpointConfigName")


def of_config(context: Context, config: str) -> Release | None:
    """What an endpoint configuration serves; None where it or its model is gone.

    Raises DeployError for one that was not made here. By its name: whoever deploys this stage may read no others.
    """
    sagemaker = context.client("sagemaker")
    if not context.names.is_content_name(config):
        raise _not_ours(config)
    described = found(sagemaker.describe_endpoint_config, EndpointConfigName=config)
    if not described:
        return None
    name = described["ProductionVariants"][0].get("ModelName")  # an endpoint of inference components has none
    model = found(sagemaker.describe_model, ModelName=name) if name else {}
    if model is None:
        return None
    container = model.get("PrimaryContainer", {})  # a model made elsewhere may have several containers, or its data elsewhere
    if not (container.get("Image") and container.get("ModelDataUrl")):
        raise _not_ours(config)
    tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=model["ModelArn"])["Tags"]}
    return Release(image=container["Image"], model_data=container["ModelDataUrl"], cuda=tags.get("cuda", "unknown"))


def _not_ours(config: str) -> DeployError:
    hint = "`python -m deploy rollback --to CONFIG` goes back to one of ours; `status` lists them"
    return DeployError(f"endpoint-config/{config}", "was not made by deploy: no release of ours is in it", hint=hint)


def live(context: Context) -> Release | None:
    """What the endpoint serves; None before the first release."""
    config = live_config(context)
    return of_config(context, config) if config else None


def past(context: Context) -> list[Past]:
    """What served last first, the live one included; then what never did, newest first."""
    return sorted(_all(context), key=lambda release: (release.turn, release.created), reverse=True)


def _all(context: Context) -> Iterator[Past]:
    for row in _ours(context, "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"):
        tags = _tags(context, row["EndpointConfigName"]) or {}
        turn = tags.get(TURN, "")
        yield Past(
            config=row["EndpointConfigName"],
            created=row["CreationTime"],
            outcome=tags.get(OUTCOME, ""),
            turn=int(turn) if turn.isdecimal() else 0,
        )


def outcome(context: Context, config: str) -> str | None:
    """What `mark` has said of a configuration, "" for nothing yet or one that is not ours; None where there is no such one."""
    if not context.names.is_content_name(config):
        return ""
    tags = _tags(context, config)
    return None if tags is None else tags.get(OUTCOME, "")


def _tags(context: Context, config: str) -> dict[str, str] | None:
    answer = found(context.client("sagemaker").list_tags, ResourceArn=_arn(context, config))
    return None if answer is None else {tag["Key"]: str(tag["Value"]) for tag in answer["Tags"]}


def serves(context: Context, config: str) -> None:
    """Notes that it serves now: the first to go back to, once another does."""
    latest = next(iter(past(context)), None)
    if latest and (latest.config, latest.outcome) == (config, SERVED) and latest.turn:
        return
    turn = {TURN: str(1 + (latest.turn if latest else 0))}
    context.client("sagemaker").add_tags(ResourceArn=_arn(context, config), Tags=tag_list({OUTCOME: SERVED} | turn))


def mark(context: Context, config: str, what: str) -> None:
    """`what` is an outcome, as Past has them."""
    context.client("sagemaker").add_tags(ResourceArn=_arn(context, config), Tags=[{"Key": OUTCOME, "Value": what}])


def _arn(context: Context, config: str) -> str:
    return context.names.arn("sagemaker", f"endpoint-config/{config}")


class OldReleases(Resource):
    """Keeps the live release, the wanted one and the newest others, those that served first. On destroy, none.

    What nobody has moved to yet may be somebody's who is about to: it is left alone while an update may still take so long.
    """

    def __init__(self, context: Context, wanted_config: str | None, wanted_model: str | None) -> None:
        super().__init__(context)
        self._sagemaker = context.client("sagemaker")
        self._wanted_config, self._wanted_model = wanted_config, wanted_model

    @property
    def key(self) -> str:
        return f"releases/{self.names.base}"

    def desired(self) -> State:
        return {"old_configs": [], "old_models": []}

    def observe(self) -> State | None:
        endpoint = described(self.context) or {}
        kept = {self._wanted_config, endpoint.get("EndpointConfigName"), moving_to(endpoint)}
        past_ones = sorted(past(self.context), key=lambda release: release.outcome != SERVED)  # stable: newest first
        others = [release for release in past_ones if release.config not in kept]
        rest = others[self.context.config.endpoint.keep_releases :]
        old = [release.config for release in rest if release.outcome or not self._is_young(release.created)]
        model_of = {release.config: self._model_of(release.config) for release in past_ones}
        used = {self._wanted_model} | {model for config, model in model_of.items() if config not in old}
        models = self._models()
        spared = {name for name, created in models if self._is_young(created)} - set(model_of.values())
        return {"old_configs": old, "old_models": [name for name, _ in models if name not in used | spared]}

    def _is_young(self, created: datetime) -> bool:
        limit = timedelta(minutes=self.context.config.endpoint.update_limit_minutes)
        return self.context.clock.now() - created < limit

    def exists(self) -> bool:
        return bool(past(self.context) or self._models())

    def create(self) -> None:
        """Nothing to make: an absence."""

    def update(self, changes: Changes) -> None:
        for config in changes["old_configs"].seen if "old_configs" in changes else []:
            self._sagemaker.delete_endpoint_config(EndpointConfigName=config)
        for model in changes["old_models"].seen if "old_models" in changes else []:
            self._sagemaker.delete_model(ModelName=model)

    def delete(self) -> None:
        for release in past(self.context):
            self._sagemaker.delete_endpoint_config(EndpointConfigName=release.config)
        for model, _ in self._models():
            self._sagemaker.delete_model(ModelName=model)

    def _models(self) -> list[tuple[str, datetime]]:
        rows = _ours(self.context, "list_models", "Models", "ModelName")
        return [(row["ModelName"], row["CreationTime"]) for row in rows]

    def _model_of(self, config: str) -> str | None:
        described = found(self._sagemaker.describe_endpoint_config, EndpointConfigName=config)
        return described and described["ProductionVariants"][0].get("ModelName")


def _ours(context: Context, operation: str, rows: str, name: str) -> list[dict[str, Any]]:
    """Rows whose name is this stage's base and a content id, and nothing that only looks alike."""
    pages = context.client("sagemaker").get_paginator(operation).paginate(NameContains=context.names.base)
    return [row for page in pages for row in page[rows] if context.names.is_content_name(row[name])]
