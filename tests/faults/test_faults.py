"""Twelve events from a seeded schedule, and a guard that was seen to fail."""

import pytest

from tests.faults import serving, soak, training


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twelve_seeded_events_leave_every_invariant_standing(tmp_path):
    result = soak.run(events=12, seed=2026, folder=tmp_path)
    print(*result["hits"], sep="\n")
    assert result["events"] == 12


def test_a_schedule_is_its_seed():
    assert training.schedule(50, 1) == training.schedule(50, 1) != training.schedule(50, 2)
    assert {event.kind for event in training.schedule(50, 1)} == set(training.KINDS)
    assert set(serving.schedule(50, 1)) == set(serving.KINDS)


def test_a_checkpoint_that_is_not_what_latest_says_breaks_an_invariant(tmp_path):
    run = training.Run(tmp_path, tmp_path / "run")
    (run.work / "checkpoints").mkdir(parents=True)
    (run.work / "checkpoints" / "latest.json").write_text('{"file": "checkpoint-1.pt", "step": 1, "sha256": "0"}')
    with pytest.raises(training.Broken, match="I4"):
        run.check(None, 0, finished=True)
    with pytest.raises(training.Broken, match="I2"):
        run.check(None, 1, finished=True)
