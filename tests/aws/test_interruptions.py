"""Every mutating call interrupted in turn: each state that it can leave is the start of a next run that comes through."""

import pytest

from tests.support.applied import FULL, apply, destroy, endpoint, plan, writes_of
from tests.support.aws import Killed, Recorder, everything, stage


def step_by_step(run, limit=80):
    """Run, allowed one mutating call each time and killed at the next; the number of runs until one comes through."""
    for attempt in range(1, limit):
        recorder = Recorder(kill_at_write=2)
        try:
            run(recorder=recorder)
        except Killed:
            continue
        return attempt
    pytest.fail(f"not done after {limit} runs that each wrote once")
    return None


ASLEEP = {
    "endpoint": {"kind": "async"},
    "scaling": {"minimum": 0},
    "security": {"boundary": False},
    "function": {"enabled": False},
}


@pytest.mark.parametrize(("tables", "more_than"), [(FULL, 40), (ASLEEP, 30)], ids=["everything", "asynchronous"])
def test_killed_after_every_single_call_apply_and_destroy_still_come_through(aws, tables, more_than):
    """Each state that an interruption can leave is the start of the next run; a run that undid work would never end."""
    config = stage(**tables)
    apply(config)
    want, steps = everything(), len(writes_of(destroy))
    assert step_by_step(lambda recorder: apply(config, recorder=recorder)) > more_than
    assert everything() == want
    assert {step.action for step in plan(config)} == {"keep"}
    assert step_by_step(destroy) == steps
    assert not any(everything().values())


def test_killed_after_every_single_call_a_release_still_comes_through(aws):
    after = stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}, function={"memory_mb": 1024})
    apply()
    assert step_by_step(lambda recorder: apply(after, "b", recorder)) >= 10
    assert {step.action for step in plan(after, "b")} == {"keep"}
    assert endpoint()["EndpointStatus"] == "InService"
