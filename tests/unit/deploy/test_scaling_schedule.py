"""Which bounds a schedule has by the clock."""

from datetime import UTC, datetime, timedelta

import pytest

from deploy.scaling_schedule import ScheduledAction, course, in_force, said

THURSDAY = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def action(name: str, schedule: str, low: int = 1, high: int = 4, **more) -> ScheduledAction:
    return ScheduledAction(name=name, schedule=schedule, minimum=low, maximum=high, **more)


MORNINGS = action("mornings", "cron(0 7 ? * MON-FRI *)", 2, 6)
EVENINGS = action("evenings", "cron(0 19 ? * MON-FRI *)", 1, 3)
CHRISTMAS = action("christmas", "at(2026-12-24T18:00:00)", 1, 1)


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        (THURSDAY, MORNINGS),
        (THURSDAY - 6 * HOUR, EVENINGS),
        (THURSDAY.replace(hour=7), MORNINGS),
        (THURSDAY + 3 * DAY, EVENINGS),
        (datetime(2026, 12, 24, 18, tzinfo=UTC), CHRISTMAS),
        (datetime(2026, 12, 25, 7, tzinfo=UTC), MORNINGS),
    ],
)
def test_the_action_that_was_due_last_holds(now, holds):
    assert in_force([MORNINGS, EVENINGS, CHRISTMAS], now) is holds


def test_of_two_at_one_moment_the_later_in_the_file_holds():
    twin = action("twin", MORNINGS.schedule, 3, 3)
    assert in_force([MORNINGS, twin], THURSDAY) is twin
    assert in_force([twin, MORNINGS], THURSDAY) is MORNINGS


def test_before_its_start_it_was_never_due_and_at_its_start_it_is():
    later = action("later", MORNINGS.schedule, start=THURSDAY + HOUR)
    assert in_force([later], THURSDAY) is None
    assert later.latest(THURSDAY + 2 * HOUR) == THURSDAY + HOUR
    assert later.latest(THURSDAY + DAY) == (THURSDAY + DAY).replace(hour=7)


def test_after_its_end_what_it_set_stays():
    ended = action("ended", MORNINGS.schedule, start=THURSDAY - 9 * DAY, end=THURSDAY - DAY)
    assert ended.latest(THURSDAY + 9 * DAY) == (THURSDAY - DAY).replace(hour=7)
    assert ended.over(THURSDAY)
    assert not MORNINGS.over(THURSDAY)
    assert [CHRISTMAS.over(datetime(2026, 12, day, tzinfo=UTC)) for day in (24, 25)] == [False, True]


def test_a_rate_without_a_start_is_known_to_aws_only():
    assert in_force([action("often", "rate(6 hours)")], THURSDAY) is None
    assert in_force([action("often", "rate(6 hours)", start=THURSDAY - DAY)], THURSDAY) is not None


def test_the_zone_is_the_actions_own():
    tokyo = action("tokyo", "cron(0 7 ? * MON-FRI *)", timezone="Asia/Tokyo")
    assert tokyo.latest(THURSDAY) == datetime(2026, 11, 25, 22, tzinfo=UTC)


def test_a_course_begins_with_what_holds_and_tells_each_change():
    begin = THURSDAY.replace(hour=6)
    found = course([MORNINGS, EVENINGS], begin, 24 * 60)
    assert {minute: entry.name for minute, entry in found.items()} == {0: "evenings", 60: "mornings", 13 * 60: "evenings"}
    assert course([], begin, 60) == {}


def test_in_a_course_a_rate_begins_with_it():
    found = course([action("often", "rate(20 minutes)")], THURSDAY, 60)
    assert list(found) == [0, 20, 40]


def test_people_read_what_comes_and_what_holds():
    text = said([MORNINGS, CHRISTMAS, action("often", "rate(6 hours)")], datetime(2026, 12, 25, tzinfo=UTC))
    assert "mornings: 2–6 instances from cron(0 7 ? * MON-FRI *) UTC" in text
    assert "at(2026-12-24T18:00:00) UTC (over)" in text
    assert "rate(6 hours)." in text
    assert "By the clock christmas was due last" in text
    assert "none was due yet" in said([CHRISTMAS], THURSDAY)
