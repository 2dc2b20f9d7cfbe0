"""Scheduled actions in a fake account: made, changed, taken away; and what they do to the bounds is left alone."""

from datetime import UTC, datetime

import pytest

from deploy import stack
from tests.support.applied import apply, plan, writes_of
from tests.support.aws import client, context, everything, release, stage

TARGET = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/kennel-dev/variant/main",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
MORNINGS = {"name": "mornings", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 2, "maximum": 6, "timezone": "Europe/Berlin"}
EVENINGS = {"name": "evenings", "schedule": "cron(0 19 ? * MON-FRI *)", "minimum": 1, "maximum": 3, "timezone": "Europe/Berlin"}
PUT, DELETE = "application-autoscaling:PutScheduledAction", "application-autoscaling:DeleteScheduledAction"
REGISTER = "application-autoscaling:RegisterScalableTarget"


def scheduled(*actions, **scaling):
    return stage(scaling={"scheduled": list(actions)} | scaling)


def in_aws() -> dict[str, dict]:
    rows = client("application-autoscaling").describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"]
    return {row["ScheduledActionName"]: row for row in rows}


def bounds() -> tuple[int, int]:
    (target,) = client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return target["MinCapacity"], target["MaxCapacity"]


def set_bounds(low: int, high: int) -> None:
    """As AWS does at an action's time, or somebody by hand."""
    client("application-autoscaling").register_scalable_target(MinCapacity=low, MaxCapacity=high, **TARGET)


def at(moment: str, config, which="a"):
    """A stage's engine at this moment (UTC)."""
    made = context(config)
    made.clock.now = lambda: datetime.fromisoformat(moment).replace(tzinfo=UTC)
    return stack.engine(made, release(which))


def actions_of(engine) -> dict[str, str]:
    return {step.key: step.action for step in engine.plan() if "schedul" in step.key or "scaling-target" in step.key}


def test_each_is_made_with_its_bounds_zone_start_and_end(aws):
    times = {"start": datetime(2026, 12, 1, tzinfo=UTC), "end": datetime(2027, 3, 31, tzinfo=UTC)}
    assert writes_of(apply, scheduled(MORNINGS | times, EVENINGS)).count(PUT) == 2
    seen = in_aws()["kennel-dev-mornings"]
    assert (seen["Schedule"], seen["Timezone"]) == ("cron(0 7 ? * MON-FRI *)", "Europe/Berlin")
    assert seen["ScalableTargetAction"] == {"MinCapacity": 2, "MaxCapacity": 6}
    assert {key: seen[f"{key.title()}Time"] for key in times} == times
    assert writes_of(apply, scheduled(MORNINGS | times, EVENINGS)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"minimum": 3},
        {"maximum": 7},
        {"schedule": "cron(0 8 ? * MON-FRI *)"},
        {"timezone": "UTC"},
        {"end": datetime(2027, 1, 1, tzinfo=UTC)},
        {"start": datetime(2026, 12, 1, tzinfo=UTC)},
        {"schedule": "rate(12 hours)", "timezone": "UTC"},
    ],
    ids=str,
)
def test_a_change_of_one_is_one_call_and_back_is_another(aws, change):
    apply(scheduled(MORNINGS, EVENINGS))
    for config in (scheduled(MORNINGS | change, EVENINGS), scheduled(MORNINGS, EVENINGS)):
        assert writes_of(apply, config) == [PUT]
        assert writes_of(apply, config) == []


def test_what_the_file_has_no_more_is_deleted_and_others_are_left_alone(aws):
    apply(scheduled(MORNINGS, EVENINGS))
    theirs = {"Schedule": "rate(1 day)", "ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 4}}
    client("application-autoscaling").put_scheduled_action(ScheduledActionName="theirs", **theirs, **TARGET)
    assert bounds() == (1, 3), "evenings was due last"
    assert writes_of(apply, scheduled(MORNINGS)) == [REGISTER, DELETE], "its bounds go with it"
    assert (set(in_aws()), bounds()) == ({"kennel-dev-mornings", "theirs"}, (2, 6))
    assert writes_of(apply, stage()) == [REGISTER, DELETE]
    assert (set(in_aws()), bounds()) == ({"theirs"}, (1, 4))
    assert writes_of(apply, stage()) == []


def test_scaling_that_is_turned_off_takes_them_along(aws):
    apply(scheduled(MORNINGS))
    apply(stage(scaling={"profile": "none"}))
    assert (everything()["targets"], everything()["scheduled"]) == ([], [])


@pytest.mark.parametrize("pair", [(2, 6), (1, 3), (1, 4)], ids=["mornings", "evenings", "the file's own"])
def test_bounds_that_an_action_has_set_are_no_drift_whatever_the_hour(aws, pair):
    config = scheduled(MORNINGS, EVENINGS)
    apply(config)
    set_bounds(*pair)
    for moment in ("2026-11-26T03:00", "2026-11-26T12:00", "2026-11-26T22:00"):
        assert set(actions_of(at(moment, config)).values()) == {"keep"}
        assert [step.key for step in at(moment, config).apply() if step.action != "keep"] == []
    assert bounds() == pair


@pytest.mark.parametrize(("moment", "pair"), [("2026-11-26T12:00", (2, 6)), ("2026-11-26T22:00", (1, 3))])
def test_bounds_that_somebody_set_by_hand_become_what_the_schedule_has_by_the_clock(aws, moment, pair):
    config = scheduled(MORNINGS, EVENINGS)
    apply(config)
    set_bounds(5, 9)
    steps = [step for step in at(moment, config).plan() if step.action != "keep"]
    assert [(step.key, step.action) for step in steps] == [("scaling-target/kennel-dev", "update")]
    assert {name: (change.seen, change.wanted) for name, change in steps[0].changes.items()} == {
        "minimum": (5, pair[0]),
        "maximum": (9, pair[1]),
    }
    list(at(moment, config).apply())
    assert bounds() == pair


def test_an_action_whose_bounds_change_while_it_holds_takes_effect_at_once(aws):
    """Otherwise the old ones, which no action has any more, would be undone to the file's own in the middle of the rush."""
    apply(scheduled(MORNINGS, EVENINGS))
    set_bounds(2, 6)
    list(at("2026-11-26T12:00", scheduled(MORNINGS | {"maximum": 8}, EVENINGS)).apply())
    assert bounds() == (2, 8)


def test_a_new_instance_type_in_the_rush_keeps_the_rushs_bounds_and_every_action(aws):
    """The target goes and comes back, and AWS deletes its actions with it."""
    config = scheduled(MORNINGS, EVENINGS)
    apply(config)
    set_bounds(2, 6)
    moved = stage(scaling={"scheduled": [MORNINGS, EVENINGS]}, endpoint={"instance_type": "ml.g4dn.2xlarge"})
    done = [step.key for step in at("2026-11-26T12:00", moved).apply() if step.action == "create"]
    assert [key for key in done if key.startswith("scheduled-action/")] == [
        "scheduled-action/kennel-dev/mornings",
        "scheduled-action/kennel-dev/evenings",
    ]
    assert bounds() == (2, 6)
    assert len(in_aws()) == 2


def test_a_stage_that_is_new_in_the_rush_starts_with_the_rushs_bounds(aws):
    list(at("2026-11-26T12:00", scheduled(MORNINGS, EVENINGS)).apply())
    assert bounds() == (2, 6)


def test_one_that_is_over_is_neither_made_nor_missed(aws):
    once = {"name": "once", "schedule": "at(2026-11-20T18:00:00)", "minimum": 1, "maximum": 1}
    ended = MORNINGS | {"end": datetime(2026, 11, 20, tzinfo=UTC)}
    assert PUT not in writes_of(apply, scheduled(once, ended))
    assert writes_of(apply, scheduled(once, ended)) == []
    assert in_aws() == {}


def test_a_start_that_passes_meanwhile_is_no_drift_and_is_not_sent_again(aws):
    config = scheduled(MORNINGS | {"start": datetime(2026, 11, 25, tzinfo=UTC)}, EVENINGS)
    apply(config)
    assert "StartTime" in in_aws()["kennel-dev-mornings"]
    assert set(actions_of(at("2026-11-26T12:00", config)).values()) == {"keep"}
    client("application-autoscaling").delete_scheduled_action(ScheduledActionName="kennel-dev-mornings", **TARGET)
    list(at("2026-11-26T12:00", config).apply())
    assert "StartTime" not in in_aws()["kennel-dev-mornings"]


def test_a_plan_says_what_is_scheduled_and_what_holds(aws):
    from deploy import plan as planning

    config = scheduled(MORNINGS, EVENINGS)
    made = context(config)
    made.out.print(planning.table(plan(config), release(), made))
    text = " ".join(made.out.text.split())
    assert "mornings: 2–6 instances from cron(0 7 ? * MON-FRI *) Europe/Berlin" in text
    assert "bounds that an action has set are left as they are" in text
    document = planning.as_dict(plan(config), release(), made)
    assert document["scheduled"] == {"by_the_clock": "evenings", "left_alone": [(1, 4), (2, 6), (1, 3)]}
    assert "scheduled" not in planning.as_dict(plan(), release(), context())


def test_an_asynchronous_endpoint_may_sleep_by_the_clock(aws):
    night = {"name": "night", "schedule": "cron(0 22 * * ? *)", "minimum": 0, "maximum": 1}
    config = stage(endpoint={"kind": "async"}, scaling={"minimum": 1, "scheduled": [night]}, function={"enabled": False})
    apply(config)
    assert in_aws()["kennel-dev-night"]["ScalableTargetAction"] == {"MinCapacity": 0, "MaxCapacity": 1}
    assert writes_of(apply, config) == []


def test_status_tells_the_bounds_of_now(released):
    assert released("status")[1]["endpoint"]["bounds"] == "1–4"
    set_bounds(2, 6)
    assert released("status")[1]["endpoint"]["bounds"] == "2–6"
