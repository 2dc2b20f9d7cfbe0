"""Apply, destroy and what is between, in a fake account."""

from deploy import stack
from tests.support.aws import Recorder, context, everything, release


def apply(config=None, which="a", recorder=None):
    ctx = context(config, recorder)
    return list(stack.engine(ctx, release(which)).apply())


def test_a_second_apply_writes_nothing(aws):
    first, second = Recorder(), Recorder()
    apply(recorder=first)
    full = everything()
    steps = apply(recorder=second)
    assert {step.action for step in steps} == {"keep"}
    assert second.writes == []
    assert everything() == full
    assert len(first.writes) > 30


def destroy(recorder=None, delete_data=True):
    ctx = context(recorder=recorder)
    return list(stack.removal(ctx, delete_data=delete_data).destroy())


def test_destroy_leaves_nothing(aws):
    apply()
    destroy()
    assert not any(everything().values()), everything()
