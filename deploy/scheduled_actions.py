"""What AWS is told of `[[scaling.scheduled]]`: one scheduled action each on the endpoint's scaling target.

They have no tags; a name that begins with the stage's is ours. AWS deletes them with the target, so nothing else has to.
"""

from datetime import UTC, datetime
from typing import Any

from deploy.autoscaling import variant_target
from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.scaling_schedule import ScheduledAction
from deploy.schedule import Rate, parse


def resources(context: Context) -> list[Resource]:
    """After the target that they belong to."""
    return [*(Scheduled(context, action) for action in context.config.scaling.scheduled), Unscheduled(context)]


class _OfTarget(Resource):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._client = context.client("application-autoscaling")
        self._where = variant_target(context)
        self._prefix = f"{self.names.base}-"


class Scheduled(_OfTarget):
    """One that is over is left as it is: AWS may have forgotten it, and does not take a time that has passed."""

    def __init__(self, context: Context, action: ScheduledAction) -> None:
        super().__init__(context)
        self._action, self._name = action, f"{self._prefix}{action.name}"
        self._recurs = isinstance(parse(action.schedule), Rate)

    @property
    def key(self) -> str:
        return f"scheduled-action/{self.names.endpoint}/{self._action.name}"

    def desired(self) -> State:
        action = self._action
        return {
            "schedule": action.schedule,
            "timezone": action.timezone,
            "minimum": action.minimum,
            "maximum": action.maximum,
            "start": self._ahead(action.start),
            "end": _text(action.end),
        }

    def observe(self) -> State | None:
        if self._action.over(self.context.clock.now()):
            return self.desired()
        found = self._client.describe_scheduled_actions(ScheduledActionNames=[self._name], **self._where)["ScheduledActions"]
        if not found:
            return None
        bounds: dict[str, Any] = found[0].get("ScalableTargetAction") or {}
        return {
            "schedule": found[0].get("Schedule"),
            "timezone": "UTC" if self._recurs else found[0].get("Timezone") or "UTC",
            "minimum": bounds.get("MinCapacity"),
            "maximum": bounds.get("MaxCapacity"),
            "start": self._ahead(found[0].get("StartTime")),
            "end": _text(found[0].get("EndTime")),
        }

    def create(self) -> None:
        """Also repairs: what is not named is kept by AWS, but for start and end, which it then deletes."""
        action, start = self._action, self._ahead(self._action.start)
        request: State = {
            "ScheduledActionName": self._name,
            "Schedule": action.schedule,
            "ScalableTargetAction": {"MinCapacity": action.minimum, "MaxCapacity": action.maximum},
        }
        if not self._recurs:
            request["Timezone"] = action.timezone
        if start:
            request["StartTime"] = action.start
        if action.end:
            request["EndTime"] = action.end
        self.context.patiently("the scaling target", lambda: self._client.put_scheduled_action(**request, **self._where))

    def update(self, changes: Changes) -> None:
        del changes
        self.create()

    def delete(self) -> None:
        """Goes with the target."""

    def _ahead(self, moment: datetime | None) -> str | None:
        """A start that has passed makes no difference any more, and AWS would not take it."""
        return _text(moment) if moment and moment > self.context.clock.now() else None


class Unscheduled(_OfTarget):
    """No action of ours that the file does not have any more. Others' are left alone."""

    @property
    def key(self) -> str:
        return f"scheduled-actions/{self.names.endpoint}"

    def desired(self) -> State:
        return {"old": []}

    def observe(self) -> State | None:
        wanted = {f"{self._prefix}{action.name}" for action in self.context.config.scaling.scheduled}
        pages = self._client.get_paginator("describe_scheduled_actions").paginate(**self._where)
        names = [str(row["ScheduledActionName"]) for page in pages for row in page["ScheduledActions"]]
        return {"old": [name for name in names if name.startswith(self._prefix) and name not in wanted]}

    def create(self) -> None:
        """Nothing to make: an absence."""

    def update(self, changes: Changes) -> None:
        for name in changes["old"].seen:
            self._client.delete_scheduled_action(ScheduledActionName=name, **self._where)

    def delete(self) -> None:
        """Goes with the target."""


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else None
