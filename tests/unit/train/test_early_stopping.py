import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.core.errors import ConfigError
from containers.train.early_stopping import EarlyStopping


def follow(stopping, values):
    """(epoch at which it stopped or None, wait after each epoch)"""
    waits = []
    for epoch, value in enumerate(values):
        verdict = stopping.update(value, epoch)
        waits.append(stopping.wait)
        if verdict.stop:
            return epoch, waits
    return None, waits


def test_stops_after_patience_evaluations_without_improvement():
    stopping = EarlyStopping(patience=3)
    assert follow(stopping, [1, 0.9, 0.95, 0.96, 0.97, 0.1])[0] == 4
    assert stopping.best_epoch == 1


def test_slow_creep_never_counts_and_never_accumulates():
    stopping = EarlyStopping(patience=3, min_delta=0.1)
    assert follow(stopping, [1.00, 0.95, 0.91, 0.89])[1] == [0, 1, 2, 0]
    assert stopping.reference == 0.89


def test_the_best_is_the_smallest_even_where_it_is_no_improvement():
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert follow(stopping, [1.0, 0.95, 0.92])[0] == 2
    assert (stopping.best_epoch, stopping.best_value, stopping.reference) == (2, 0.92, 1.0)


def test_an_equal_value_is_no_improvement_and_the_earlier_epoch_stays_best():
    stopping = EarlyStopping(patience=2)
    assert follow(stopping, [0.5, 0.5, 0.5])[0] == 2
    assert stopping.best_epoch == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_best_and_counts_as_waiting(bad):
    stopping = EarlyStopping(patience=3)
    assert follow(stopping, [bad, 0.5, bad, bad])[1] == [1, 0, 1, 2]
    assert stopping.best_epoch == 1


@given(st.lists(st.floats(allow_nan=True), max_size=50))
def test_patience_0_never_stops(values):
    assert follow(EarlyStopping(patience=0), values)[0] is None


@pytest.mark.parametrize(("patience", "min_delta"), [(-1, 0.0), (1, -0.1), (1, math.nan)])
def test_nonsense_is_refused(patience, min_delta):
    with pytest.raises(ConfigError, match="must not be negative"):
        EarlyStopping(patience, min_delta)


def test_a_new_phase_gets_the_whole_patience_and_keeps_the_best():
    stopping = EarlyStopping(patience=2)
    follow(stopping, [0.3, 0.4, 0.5])
    stopping.enter_phase()
    assert follow(stopping, [0.6, 0.7])[0] == 1
    assert stopping.best_value == 0.3


@given(st.lists(st.floats(0, 2), min_size=2, max_size=30), st.integers(1, 29), st.integers(0, 4), st.floats(0, 0.5))
def test_saved_and_loaded_anywhere_it_goes_on_as_if_nothing_had_happened(values, cut, patience, min_delta):
    whole, first, second = (EarlyStopping(patience, min_delta) for _ in range(3))
    for epoch, value in enumerate(values):
        if epoch == cut:
            second.load_state_dict(first.state_dict())
            first = second
        assert whole.update(value, epoch) == first.update(value, epoch)
