"""Runs that are killed at a mutating call, as if the program had ended there."""

from collections.abc import Iterator

import pytest

from tests.support.aws import Killed, Recorder


def step_by_step(run, limit=80, kind=Recorder):
    """Run, allowed one mutating call each time and killed at the next; the number of runs until one comes through."""
    for attempt in range(1, limit):
        recorder = kind(kill_at_write=2)
        try:
            run(recorder=recorder)
        except Killed:
            continue
        return attempt
    pytest.fail(f"not done after {limit} runs that each wrote once")
    return None


def killed_at_each_write(run) -> Iterator[list[str]]:
    """Every run is killed at one write, then one is left alone: the calls that came through before, kill by kill."""
    for write in range(1, 30):
        recorder = Recorder(kill_at_write=write)
        try:
            run(recorder=recorder)
        except Killed:
            yield recorder.writes
        else:
            return
    pytest.fail("it never comes through")
