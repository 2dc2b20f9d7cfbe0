"""`[[scaling.scheduled]]`: other bounds at certain times. Pure: what AWS is told is `scheduled_actions`.

AWS sets the target's minimum and maximum at an action's time and never sets them back: they hold until another action's time.
So the bounds of a stage with a schedule are not one pair, but whichever of the file's own and its actions' was set last.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from containers.core.settings import Settings
from deploy.schedule import At, Rate, parse, zone_of


def _expression(text: str) -> str:
    parse(text)
    return text


def _zone(name: str) -> str:
    zone_of(name)
    return name


def _second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


Moment = Annotated[AwareDatetime, AfterValidator(_second)]


class ScheduledAction(Settings):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
    """What it is for; unique in the stage."""
    schedule: Annotated[str, AfterValidator(_expression)]
    """When: cron(minutes hours day-of-month month day-of-week year), rate(value unit) or at(yyyy-mm-ddThh:mm:ss)."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Of cron and at: an IANA name, so that mornings stay mornings when clocks change."""
    minimum: Annotated[int, Field(ge=0)]
    """Fewest instances from then on; 0 only for async."""
    maximum: Annotated[int, Field(ge=1)]
    """Most instances from then on: the price ceiling follows from the highest."""
    start: Moment | None = None
    """Of cron and rate: not before this moment, at which it also happens once."""
    end: Moment | None = None
    """Of cron and rate: not after this moment; the bounds that it set last stay."""

    @model_validator(mode="after")
    def _sense(self) -> Self:
        kind = parse(self.schedule)
        if self.minimum > self.maximum:
            raise ValueError(f"{self.name}: minimum is above maximum")
        if isinstance(kind, At) and (self.start or self.end):
            raise ValueError(f"{self.name}: start and end are for cron and rate; at happens once")
        if isinstance(kind, Rate) and self.timezone != "UTC":
            raise ValueError(f"{self.name}: timezone is for cron and at")
        if self.start and self.end and self.end <= self.start:
            raise ValueError(f"{self.name}: end is not after start")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        return self.minimum, self.maximum

    def latest(self, now: datetime) -> datetime | None:
        """When it was last due; None where it was not yet, or where only AWS can know (a rate without a start)."""
        until = min(now, self.end) if self.end else now
        if self.start and self.start > until:
            return None
        due = parse(self.schedule).latest(until, zone_of(self.timezone), self.start)
        return max(due or self.start, self.start) if self.start else due

    def over(self, now: datetime) -> bool:
        """It will never be due again."""
        kind = parse(self.schedule)
        once = isinstance(kind, At) and kind.latest(now, zone_of(self.timezone), None) is not None
        return once or (self.end is not None and self.end <= now)


def in_force(actions: Sequence[ScheduledAction], now: datetime) -> ScheduledAction | None:
    """The one that was due last; of two at the same moment, the later in the file."""
    due = [(moment, number) for number, action in enumerate(actions) if (moment := action.latest(now)) is not None]
    return actions[max(due)[1]] if due else None


def course(actions: Sequence[ScheduledAction], start: datetime, minutes: int) -> dict[int, ScheduledAction]:
    """Minute from `start` → the action whose time has come by then; 0: which holds at the beginning.

    A rate without a start of its own begins with it.
    """
    anchored = [action.model_copy(update={"start": start}) if _unanchored(action) else action for action in actions]
    found: dict[int, ScheduledAction] = {}
    last = None
    for minute in range(minutes):
        now = start + timedelta(minutes=minute)
        action = in_force(anchored, now)
        moment = action and action.latest(now)
        if action is not None and moment != last:
            found[minute] = action
        last = moment
    return found


def _unanchored(action: ScheduledAction) -> bool:
    return isinstance(parse(action.schedule), Rate) and action.start is None


def said(actions: Sequence[ScheduledAction], now: datetime) -> str:
    """For people: what is scheduled and which of it holds by the clock."""
    rows = [f"{action.name}: {action.minimum}–{action.maximum} instances from {_when(action, now)}" for action in actions]
    current = in_force(actions, now)
    holds = f"{current.name} was due last" if current else "none was due yet"
    return f"Scheduled: {'; '.join(rows)}. By the clock {holds}; bounds that an action has set are left as they are."


def _when(action: ScheduledAction, now: datetime) -> str:
    zone = "" if isinstance(parse(action.schedule), Rate) else f" {action.timezone}"
    return f"{action.schedule}{zone}{' (over)' if action.over(now) else ''}"
