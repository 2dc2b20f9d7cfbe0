"""AWS's schedule expressions, checked before they are sent, and read for when they were last due.

    at(2026-12-24T18:00:00)          once
    rate(12 hours)                   again and again
    cron(0 7 ? * MON-FRI *)          minutes, hours, day of month, month, day of week, year

Application Auto Scaling API reference, PutScheduledAction; for cron's fields EventBridge's "Cron expressions reference", to
which the Application Auto Scaling user guide sends its readers.
"""

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_UNITS = {"minute": 60, "hour": 3600, "day": 86400}
_LOOK_BACK_DAYS = 366

Days = Callable[[date], bool]


@dataclass(frozen=True)
class At:
    """`moment` is of the action's own time zone."""

    moment: datetime

    def latest(self, until: datetime, zone: tzinfo, start: datetime | None) -> datetime | None:
        """When it was last due, not after `until` (with a zone); None where it was not, or where nobody can know."""
        del start
        due = self.moment.replace(tzinfo=zone)
        return due if due <= until else None


@dataclass(frozen=True)
class Rate:
    every: timedelta

    def latest(self, until: datetime, zone: tzinfo, start: datetime | None) -> datetime | None:
        """Counted from `start`; without one from when AWS heard of it, which is not known here."""
        del zone
        return None if start is None or start > until else start + (until - start) // self.every * self.every


@dataclass(frozen=True)
class Cron:
    minutes: frozenset[int]
    hours: frozenset[int]
    month_days: Days
    months: frozenset[int]
    week_days: Days
    years: frozenset[int]

    def latest(self, until: datetime, zone: tzinfo, start: datetime | None) -> datetime | None:
        """Within the last year."""
        del start
        local = until.astimezone(zone).replace(tzinfo=None)
        for back in range(_LOOK_BACK_DAYS + 1):
            day = local.date() - timedelta(days=back)
            if not self._on(day):
                continue
            times = (datetime(day.year, day.month, day.day, hour, minute) for hour in self.hours for minute in self.minutes)
            if due := max((time for time in times if time <= local), default=None):
                return due.replace(tzinfo=zone)
        return None

    def _on(self, day: date) -> bool:
        return day.month in self.months and day.year in self.years and self.month_days(day) and self.week_days(day)


@cache
def parse(text: str) -> At | Rate | Cron:
    """Raises ValueError that says what is wrong."""
    match = re.fullmatch(r"(at|rate|cron)\((.*)\)", text)
    if match is None or not text.isascii():
        raise ValueError(f"{text!r} is none of at(yyyy-mm-ddThh:mm:ss), rate(value unit), cron(six fields)")
    kind, inside = match.groups()
    return _at(inside) if kind == "at" else _rate(inside) if kind == "rate" else _cron(inside)


@cache
def zone_of(name: str) -> tzinfo:
    """Of an IANA name. Raises ValueError."""
    if name == "UTC":
        return UTC
    known = available_timezones()
    if not known:
        raise ValueError("this machine has no time zone database: install the system's or Python's package tzdata")
    if name not in known:
        raise ValueError(f"{name!r} is no time zone: an IANA name such as Europe/Berlin is expected")
    return ZoneInfo(name)


def _at(text: str) -> At:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text):
        raise ValueError(f"at({text}): yyyy-mm-ddThh:mm:ss is expected, without a zone")
    return At(datetime.fromisoformat(text))


def _rate(text: str) -> Rate:
    match = re.fullmatch(r"(\d+) (minute|hour|day)s?", text)
    if match is None or int(match[1]) < 1:
        raise ValueError(f"rate({text}): a number above 0 and minutes, hours or days are expected")
    return Rate(timedelta(seconds=int(match[1]) * _UNITS[match[2]]))


def _cron(text: str) -> Cron:
    fields = text.split()
    if len(fields) != 6:
        raise ValueError(f"cron({text}): six fields are expected (minutes hours day-of-month month day-of-week year)")
    minutes, hours, month_days, months, week_days, years = fields
    if (month_days == "?") == (week_days == "?"):
        raise ValueError(f"cron({text}): day of month or day of week must be ?, and only one of them")
    return Cron(
        minutes=_numbers("minutes", minutes, range(60)),
        hours=_numbers("hours", hours, range(24)),
        month_days=_any("day of month", month_days, _month_day),
        months=_numbers("month", months, range(1, 13), _MONTHS),
        week_days=_any("day of week", week_days, _week_day),
        years=_numbers("year", years, range(1970, 2200)),
    )


def _numbers(field: str, text: str, allowed: range, names: tuple[str, ...] = ()) -> frozenset[int]:
    """`*`, `5`, `1-5`, `*/15`, `0/15`, `1-5/2` and lists of them. A range may go round: FRI-MON."""
    return frozenset(number for part in text.split(",") for number in _part(field, part, allowed, names))


def _part(field: str, text: str, allowed: range, names: tuple[str, ...]) -> list[int]:
    match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", text)
    if match is None or (match[1] == "*" and match[2]) or match[3] == "0":
        raise ValueError(f"{field}: {text!r} cannot be read")
    step = int(match[3] or 1)
    if match[1] == "*":
        return list(allowed[::step])
    first = _number(field, match[1], allowed, names)
    last = _number(field, match[2], allowed, names) if match[2] else allowed[-1] if match[3] else first
    if first <= last:
        return list(range(first, last + 1, step))
    return [*range(first, allowed.stop), *range(allowed.start, last + 1)][::step]


def _number(field: str, text: str, allowed: range, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return allowed.start + names.index(text.upper())
    if not text.isdecimal() or int(text) not in allowed:
        also = f" or {names[0]} to {names[-1]}" if names else ""
        raise ValueError(f"{field}: {text!r} is not {allowed.start} to {allowed[-1]}{also}")
    return int(text)


def _any(field: str, text: str, one: Callable[[str, str], Days]) -> Days:
    if text == "?":
        return lambda _: True
    parts = [one(field, part) for part in text.split(",")]
    return lambda day: any(part(day) for part in parts)


def _month_day(field: str, text: str) -> Days:
    """`L` is the month's last day, `3W` the weekday nearest to the third."""
    if text == "L":
        return lambda day: day.day == _length(day)
    if text == "LW":
        return lambda day: day == _nearest_weekday(day, _length(day))
    if match := re.fullmatch(r"(\w+)W", text):
        number = _number(field, match[1], range(1, 32), ())
        return lambda day: number <= _length(day) and day == _nearest_weekday(day, number)
    numbers = _numbers(field, text, range(1, 32))
    return lambda day: day.day in numbers


def _week_day(field: str, text: str) -> Days:
    """1 is Sunday. `L` is Saturday, `6L` the month's last Friday, `3#2` its second Tuesday."""
    allowed = range(1, 8)
    if text == "L":
        return lambda day: _aws_weekday(day) == 7
    if match := re.fullmatch(r"(\w+)L", text):
        last = _number(field, match[1], allowed, _WEEKDAYS)
        return lambda day: _aws_weekday(day) == last and day.day > _length(day) - 7
    if match := re.fullmatch(r"(\w+)#([1-5])", text):
        nth, which = _number(field, match[1], allowed, _WEEKDAYS), int(match[2])
        return lambda day: _aws_weekday(day) == nth and (day.day - 1) // 7 + 1 == which
    numbers = _numbers(field, text, allowed, _WEEKDAYS)
    return lambda day: _aws_weekday(day) in numbers


def _aws_weekday(day: date) -> int:
    return day.isoweekday() % 7 + 1


def _length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _nearest_weekday(day: date, number: int) -> date:
    """In the same month."""
    wanted = day.replace(day=number)
    if wanted.isoweekday() == 6:
        return wanted + timedelta(days=2 if number == 1 else -1)
    if wanted.isoweekday() == 7:
        return wanted + timedelta(days=-2 if number == _length(day) else 1)
    return wanted
