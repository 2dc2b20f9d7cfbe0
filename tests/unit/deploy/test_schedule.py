"""AWS's schedule expressions: what is one, and when it was last due."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from deploy.schedule import parse, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone=UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def latest(expression: str, until: str, zone=UTC, start=None) -> str | None:
    """In the zone's own time."""
    due = parse(expression).latest(at(until), zone, start)
    return due and due.astimezone(zone).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("expression", "until", "due"),
    [
        ("cron(0 7 ? * MON-FRI *)", "2026-11-26T12:00", "2026-11-26T07:00"),  # a Thursday
        ("cron(0 7 ? * MON-FRI *)", "2026-11-26T07:00", "2026-11-26T07:00"),
        ("cron(0 7 ? * MON-FRI *)", "2026-11-26T06:59", "2026-11-25T07:00"),
        ("cron(0 7 ? * MON-FRI *)", "2026-11-29T12:00", "2026-11-27T07:00"),  # Sunday: Friday's
        ("cron(0 7 ? * 2-6 *)", "2026-11-29T12:00", "2026-11-27T07:00"),
        ("cron(0 7 ? * FRI-MON *)", "2026-11-26T12:00", "2026-11-23T07:00"),  # it goes round the week
        ("cron(0/15 * * * ? *)", "2026-11-26T12:44", "2026-11-26T12:30"),
        ("cron(*/20 9-17/4 * * ? *)", "2026-11-26T14:00", "2026-11-26T13:40"),
        ("cron(30 6,18 * * ? *)", "2026-11-26T18:29", "2026-11-26T06:30"),
        ("cron(0 0 1 1 ? *)", "2026-11-26T12:00", "2026-01-01T00:00"),
        ("cron(0 0 1 JAN,JUL ? *)", "2026-11-26T12:00", "2026-07-01T00:00"),
        ("cron(0 12 L * ? *)", "2026-03-15T00:00", "2026-02-28T12:00"),
        ("cron(0 12 LW * ? *)", "2026-06-15T00:00", "2026-05-29T12:00"),  # the 31st is a Sunday
        ("cron(0 12 1W * ? *)", "2026-08-10T00:00", "2026-08-03T12:00"),  # the 1st is a Saturday: never back into July
        ("cron(0 12 15W * ? *)", "2026-11-20T00:00", "2026-11-16T12:00"),  # the 15th is a Sunday
        ("cron(0 12 ? * 6L *)", "2026-11-28T00:00", "2026-11-27T12:00"),  # November's last Friday
        ("cron(0 12 ? * TUE#2 *)", "2026-11-28T00:00", "2026-11-10T12:00"),
        ("cron(0 12 ? * L *)", "2026-11-26T00:00", "2026-11-21T12:00"),
        ("cron(0 12 * * ? 2025)", "2026-06-01T00:00", "2025-12-31T12:00"),
        ("cron(0 12 * * ? 2030)", "2026-11-26T00:00", None),
        ("at(2026-12-24T18:00:00)", "2026-12-24T17:59", None),
        ("at(2026-12-24T18:00:00)", "2026-12-31T00:00", "2026-12-24T18:00"),
        ("rate(12 hours)", "2026-11-26T12:00", None),
    ],
)
def test_when_it_was_last_due(expression, until, due):
    assert latest(expression, until) == due


def test_a_rate_counts_from_its_start():
    start = at("2026-11-20T06:00")
    assert latest("rate(12 hours)", "2026-11-26T12:00", start=start) == "2026-11-26T06:00"
    assert latest("rate(1 day)", "2026-11-20T05:59", start=start) is None
    assert latest("rate(90 minutes)", "2026-11-20T08:59", start=start) == "2026-11-20T07:30"


def test_mornings_stay_mornings_when_clocks_change():
    """Germany left summer time on 25 October 2026."""
    for until in ("2026-10-24T12:00", "2026-10-26T12:00"):
        assert latest("cron(0 7 * * ? *)", until, BERLIN).endswith("T07:00")
    moments = [parse("cron(0 7 * * ? *)").latest(at(until), BERLIN, None) for until in ("2026-10-24T12:00", "2026-10-26T12:00")]
    assert [moment.astimezone(UTC).hour for moment in moments] == [5, 6]


def test_each_due_moment_is_found_by_looking_back_from_any_later_one():
    """Against a walk over every minute of a week."""
    expression = parse("cron(5,50 8-10 ? * MON,WED *)")
    moment, last = at("2026-11-22T00:00"), None
    for _ in range(7 * 24 * 60):
        if moment.weekday() in (0, 2) and 8 <= moment.hour <= 10 and moment.minute in (5, 50):
            last = moment
        if moment.minute % 7 == 0 and last:
            assert expression.latest(moment, UTC, None) == last
        moment += timedelta(minutes=1)
    assert last == at("2026-11-25T10:50")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 7 * * ? *", "is none of at"),
        ("cron(0 7 * * ? *", "is none of at"),
        ("cron(0 7 * * ?)", "six fields are expected"),
        ("cron(0 7 * * * *)", "must be ?"),
        ("cron(0 7 ? * ? *)", "must be ?"),
        ("cron(60 7 * * ? *)", "minutes: '60' is not 0 to 59"),
        ("cron(0 24 * * ? *)", "hours: '24'"),
        ("cron(0 7 0 * ? *)", "day of month: '0'"),
        ("cron(0 7 32W * ? *)", "day of month: '32'"),
        ("cron(0 7 * 13 ? *)", "month: '13' is not 1 to 12 or JAN to DEC"),
        ("cron(0 7 ? * 8 *)", "day of week: '8' is not 1 to 7 or SUN to SAT"),
        ("cron(0 7 ? * MONDAY *)", "day of week: 'MONDAY'"),
        ("cron(0 7 ? * MON#6 *)", "day of week"),
        ("cron(0 7 * * ? 1969)", "year: '1969'"),
        ("cron(*/0 7 * * ? *)", "cannot be read"),
        ("cron(*-5 7 * * ? *)", "cannot be read"),
        ("cron(1,,2 7 * * ? *)", "cannot be read"),
        ("cron(٣ 7 * * ? *)", "is none of at"),
        ("rate(0 hours)", "a number above 0"),
        ("rate(5 weeks)", "minutes, hours or days"),
        ("rate(5)", "minutes, hours or days"),
        ("at(2026-12-24 18:00)", "yyyy-mm-ddThh:mm:ss"),
        ("at(2026-12-24T18:00:00Z)", "without a zone"),
        ("at(2026-13-24T18:00:00)", "month must be in 1..12"),
    ],
)
def test_what_is_no_schedule(expression, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(expression)


def test_time_zones_are_ianas():
    assert zone_of("UTC") is UTC
    assert zone_of("Etc/GMT+9") == ZoneInfo("Etc/GMT+9")
    for wrong in ("Berlin", "Europe", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="is no time zone"):
            zone_of(wrong)
