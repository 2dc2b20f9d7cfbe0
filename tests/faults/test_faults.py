"""Twenty events from a seeded schedule, twelve of them a training job's; and guards that were seen to fail."""

import json
import random

import pytest
import requests

from tests.faults import clock, invariants, network, ranks, serving, soak, training, two_hosts
from tests.faults.record import Lineage
from tests.support.requirement import unavailable


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_seeded_events_leave_every_invariant_standing(tmp_path):
    if not clock.available():
        unavailable(clock.MISSING)
    result = soak.run(events=20, seed=2026, folder=tmp_path)
    assert result["broken"] == []
    assert (result["events"], result["of_training"]) == (20, 12)


@pytest.mark.parametrize("lane", [training, ranks, two_hosts, serving, network], ids=lambda lane: lane.__name__)
def test_a_schedule_is_its_seed_and_has_every_kind(lane):
    assert lane.schedule(50, 1) == lane.schedule(50, 1) != lane.schedule(50, 2)
    assert {getattr(event, "kind", event) for event in lane.schedule(50, 1)} == set(lane.KINDS)


@pytest.mark.parametrize("lane", [training, two_hosts], ids=lambda lane: lane.__name__)
def test_few_events_are_the_seeds_choice_and_no_kind_is_left_out_for_ever(lane):
    drawn = [{event.kind for event in lane.schedule(2, seed)} for seed in range(60)]
    assert all(len(kinds) == 2 for kinds in drawn)
    assert set.union(*drawn) == set(lane.KINDS)


@pytest.mark.parametrize("events", [12, 20, 200])
def test_every_lane_has_its_share(events):
    counts = soak.shares(events)
    assert sum(counts.values()) == events
    assert sum(counts[lane] for lane in soak.TRAINING) >= 0.55 * events


def checkpoints(folder, sha256="0"):
    (folder / "checkpoint-1.pt").write_bytes(b"state")
    (folder / "latest.json").write_text(json.dumps({"file": "checkpoint-1.pt", "step": 1, "sha256": sha256}))
    return folder


def test_a_checkpoint_that_is_not_what_latest_says_breaks_an_invariant(tmp_path):
    with pytest.raises(invariants.Broken, match="I4"):
        invariants.checkpoint_whole(checkpoints(tmp_path))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_damaged_is_not_what_it_was(tmp_path, seed):
    assert invariants.damage(checkpoints(tmp_path), random.Random(seed)) == "checkpoint-1.pt"
    assert (tmp_path / "checkpoint-1.pt").read_bytes() != b"state"


@pytest.mark.parametrize(("lines", "damaged"), [(["a"], ""), (["a"], "b"), ([], "a"), (["a", "b"], "a")])
def test_a_wrong_or_silent_rejection_breaks_an_invariant(lines, damaged):
    with pytest.raises(invariants.Broken, match="I4"):
        invariants.rejected(lines, damaged, trained=True)


def test_what_was_damaged_earlier_may_be_rejected_after_what_is_now_and_not_instead():
    invariants.rejected(["b", "a"], "b", trained=True, earlier={"a", "b"})
    for lines, damaged in ((["b", "c"], "b"), (["a"], "b"), (["a"], "")):
        with pytest.raises(invariants.Broken, match="I4"):
            invariants.rejected(lines, damaged, trained=True, earlier={"a", "b"})


@pytest.mark.parametrize("text", ["", "x" * 1025, "no kind", "1: a number"])
def test_a_failure_file_that_says_nothing_breaks_an_invariant(tmp_path, text):
    (tmp_path / "failure").write_text(text)
    with pytest.raises(invariants.Broken, match="I2"):
        invariants.failure_told(tmp_path / "failure", "a test")


@pytest.mark.parametrize("cause", [("PeerLost",), ("WorkerFailed", "SIGBUS"), ("WorkerFailed", "SIGKILL", "[rank 1]")])
def test_a_failure_file_that_tells_of_another_cause_breaks_an_invariant(tmp_path, cause):
    (tmp_path / "failure").write_text("WorkerFailed: was killed (SIGKILL) [rank 0]")
    assert invariants.failure_told(tmp_path / "failure", "a test", "WorkerFailed", "SIGKILL", "[rank 0]")
    with pytest.raises(invariants.Broken, match="I2"):
        invariants.failure_told(tmp_path / "failure", "a test", *cause)


@pytest.mark.parametrize(
    ("hit", "good", "bad"),
    [
        (None, [[0], [0, 0]], [[75], [0, 1]]),
        (ranks.Hit("rank", 1), [[75, -9], [0, -9], [0, 0]], [[-9, 75], [1, -9], [75, 75], [75, 0]]),
        (ranks.Hit("loader", 0), [[1], [1, 75], [0, 0]], [[75], [1, 1], [75, 1], [-9, 75]]),
        (ranks.Hit("asked", None), [[75, 75], [0, 75]], [[1, 75], [-15, 75]]),
        (ranks.Hit("all", None), [[-9, -9], [0, -9]], [[75, -9], [1, 1]]),
    ],
)
def test_only_the_documented_exit_codes_fit_what_happened(hit, good, bad):
    assert [codes for codes in good if not ranks.codes_fit(hit, codes)] == []
    assert [codes for codes in bad if ranks.codes_fit(hit, codes)] == []


@pytest.mark.parametrize(
    ("status", "body", "is_meant"),
    [
        (503, '{"error": {"kind": "Overloaded"}}', True),
        (504, '{"error": {"kind": "DeadlineExceeded"}}', True),
        (500, '{"error": {"kind": "ModelFailed"}}', True),
        (500, '{"error": {"kind": "InternalError"}}', False),
        (500, '{"error": {"kind": "Overloaded"}}', False),
        (500, "<h1>Internal Server Error</h1>", False),
        (503, '["Overloaded"]', False),
        (503, '{"error": "Overloaded"}', False),
    ],
)
def test_a_server_must_mean_its_errors(status, body, is_meant):
    answer = requests.Response()
    answer.status_code, answer._content = status, body.encode()
    assert serving.meant(answer) is is_meant


def lineage(folder, *starts):
    """Each start: {rank: [steps of its first life, of its second, …]}; a step is (number, photos)."""
    told = Lineage()
    for number, ranks_of in enumerate(starts):
        (folder / str(number)).mkdir(parents=True)
        for rank, lives in ranks_of.items():
            for life, steps in enumerate(lives):
                lines = [json.dumps({"step": step, "photos": list(photos)}) + "\n" for step, photos in steps]
                (folder / str(number) / f"rank-{rank}-{life}.jsonl").write_text("".join(lines))
        told.add(folder / str(number))
    return told


UNDISTURBED = {0: [[(0, "ab"), (1, "cd"), (2, "da"), (3, "bc")]]}


@pytest.mark.parametrize(
    "starts",
    [
        [{0: [[(0, "ab"), (1, "cd")]]}, {0: [[(1, "cd"), (2, "da"), (3, "bc")]]}],  # killed, resumed one step before
        [{0: [[(0, "ab"), (1, "cd")], [(0, "ab"), (1, "cd"), (2, "da"), (3, "bc")]]}],  # replaced within one start
        [
            {0: [[(0, "a"), (1, "c"), (2, "d")]], 1: [[(0, "b"), (1, "d"), (2, "a")]]},
            {0: [[(2, "da"), (3, "bc")]]},
        ],  # two, then one
        [UNDISTURBED, {}],
    ],
)
def test_only_the_steps_that_led_to_the_weights_count(tmp_path, starts):
    lineage(tmp_path / "b", *starts).check(lineage(tmp_path / "a", UNDISTURBED), steps_per_epoch=2)


@pytest.mark.parametrize(
    "starts",
    [
        [{0: [[(0, "ab"), (1, "cd")]]}, {0: [[(3, "bc")]]}],  # a step is missing
        [{0: [[(0, "ab"), (1, "cd"), (2, "da"), (3, "cb"), (4, "ab")]]}],  # one too many
        [{0: [[(0, "ab"), (1, "ab"), (2, "da"), (3, "bc")]]}],  # photos twice
        [{0: [[(0, "ab"), (1, "cd"), (2, "da"), (3, "b")]]}],  # a photo is missing
    ],
)
def test_a_photo_too_few_or_too_many_breaks_an_invariant(tmp_path, starts):
    with pytest.raises(invariants.Broken, match="I5"):
        lineage(tmp_path / "b", *starts).check(lineage(tmp_path / "a", UNDISTURBED), steps_per_epoch=2)
