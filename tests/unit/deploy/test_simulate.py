import argparse
import json

import pytest

from containers.core.errors import ConfigError
from deploy import simulate
from deploy.simulate import Policy, Server, burst, plot
from tests.support import aws as fake

SERVER = Server(capacity_rps=20, in_flight=8, boot_seconds=360)


def policy(target: float, *, per_minute: bool = True, maximum: int = 4) -> Policy:
    bounds = {"minimum": 1, "maximum": maximum, "scale_in_seconds": 30, "scale_out_seconds": 30}
    return Policy(target=target, per_minute=per_minute, **bounds)


def test_steady_traffic_within_the_target_changes_nothing():
    course = simulate.simulate([5.0] * 60, policy(600), SERVER)
    assert set(course.instances) == {1}
    assert course.summary()["refused"] == 0


def test_a_burst_scales_out_after_three_points_and_the_boot_and_in_after_a_quarter_of_an_hour():
    course = simulate.simulate(burst(20, 40), policy(600), SERVER)
    minutes = course.instances[::6]
    assert minutes[:20] == [1] * 20
    first = next(minute for minute, count in enumerate(minutes) if count > 1)
    assert first == 20 + 3 + 6
    assert max(minutes) == 4
    assert minutes[-1] == 1
    last = max(minute for minute, count in enumerate(minutes) if count > 1)
    assert 50 + 14 <= last <= 50 + 40
    assert course.summary()["refused"] == 20 * (9 * 60 - 10)  # one instance's worth, until the others came


def test_the_seeds_target_keeps_the_fleet_at_its_maximum_for_two_requests_a_second():
    """30 per minute and instance is half a request per second: four instances carry two of them."""
    seed, better = (simulate.simulate(burst(20, 40), policy(target), SERVER) for target in (30, 600))
    assert seed.instances[-1] == 4
    assert seed.summary()["instance_hours"] > 1.5 * better.summary()["instance_hours"]


def test_requests_in_flight_react_sooner():
    def first(course):
        return next(index for index, count in enumerate(course.instances) if count > 1)

    slow = simulate.simulate(burst(20, 40), policy(600), SERVER)
    quick = simulate.simulate(burst(20, 40), policy(5.6, per_minute=False), SERVER)
    assert first(quick) < first(slow) - 10  # more than 100 s


def test_never_above_the_maximum_or_below_the_minimum():
    course = simulate.simulate([1000.0] * 60 + [0.0] * 60, policy(600, maximum=3), SERVER)
    assert (min(course.instances), max(course.instances)) == (1, 3)


def test_a_scheduled_minimum_boots_before_the_rush_and_a_scheduled_maximum_cuts_at_once():
    course = simulate.simulate([1.0] * 60, policy(600), SERVER, {10: (3, 4), 40: (1, 2)})
    minutes = course.instances[::6]
    assert minutes[:16] == [1] * 16
    assert minutes[16:40] == [3] * 24, "after the boot, whatever the traffic says"
    assert minutes[40] == 2
    assert set(minutes[42:]) == {1}, "it was calm for long enough"


def test_bounds_of_minute_0_are_where_the_course_begins():
    assert simulate.simulate([1.0], policy(600), SERVER, {0: (2, 4)}).instances == [2] * 6


def test_the_policy_scales_within_the_scheduled_bounds():
    course = simulate.simulate([1000.0] * 60, policy(600, maximum=3), SERVER, {0: (1, 2), 45: (1, 5)})
    assert max(course.instances[: 45 * 6]) == 2
    assert max(course.instances) == 5


def test_the_plot_has_one_column_per_slice_and_the_sums():
    course = simulate.simulate(burst(20, 40), policy(600), SERVER)
    text = plot(course, "600 a minute", 55)
    first, second, third = (line.split(" ", maxsplit=1) for line in (row.strip() for row in text.splitlines()[1:4]))
    assert [first[0], second[0], third[0]] == ["requests/s", "instances", "refused"]
    assert "10600 requests" in text
    assert "instance-hours" in text


def command(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return parser.parse_args(list(flags))


def test_the_command_takes_the_stages_policy_and_a_trace(tmp_path, capsys):
    (tmp_path / "day.csv").write_text("1,2\n3\n")
    context = fake.context(fake.stage(scaling={"profile": "seed", "maximum": 7}), as_json=True)
    simulate.run(command("--capacity-rps", "20", "--trace", str(tmp_path / "day.csv")), context)
    found = json.loads(capsys.readouterr().out)
    assert found["policy"]["target"] == 30
    assert found["policy"]["maximum"] == 7
    assert found["result"]["minutes"] == 3
    assert found["result"]["requests"] == 360


RUSH = {"name": "rush", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 2, "maximum": 6, "timezone": "Europe/Berlin"}


def test_the_command_honours_the_stages_scheduled_actions(tmp_path, capsys):
    (tmp_path / "day.csv").write_text("1\n" * 120)
    context = fake.context(fake.stage(scaling={"scheduled": [RUSH]}), as_json=True)
    flags = ["--capacity-rps", "20", "--trace", str(tmp_path / "day.csv"), "--boot-minutes", "0"]
    simulate.run(command(*flags, "--start", "2026-11-26T05:00"), context)  # an hour before seven in Berlin
    found = json.loads(capsys.readouterr().out)
    changes = [(row["minute"], row["action"]) for row in found["scheduled"]]
    assert changes == [(0, "rush"), (60, "rush")], "yesterday's holds until today's comes"
    assert found["result"]["most_instances"] == 2
    simulate.run(command(*flags, "--start", "2026-11-26T07:00:00+01:00"), context)
    assert [row["minute"] for row in json.loads(capsys.readouterr().out)["scheduled"]] == [0]


def test_people_see_a_plot():
    context = fake.context()
    simulate.run(command("--capacity-rps", "20"), context)
    assert "█" in context.out.text


@pytest.mark.parametrize("content", ["", "a,b", "-1", "inf"])
def test_a_trace_that_is_none(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ConfigError, match="--trace"):
        simulate.read_trace(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("tables", "flags"), [({"scaling": {"profile": "none"}}, ["1"]), ({"endpoint": {"kind": "serverless"}}, ["1"]), ({}, ["0"])]
)
def test_what_cannot_be_simulated_is_said(tables, flags):
    with pytest.raises(ConfigError):
        simulate.run(command("--capacity-rps", *flags), fake.context(fake.stage(**tables)))
