"""What a restarted run goes on with, and what it must agree with. Losses are scripted."""

import contextlib

import pytest
import torch

from containers.core.errors import ConfigError
from containers.train.early_stopping import StopReason
from containers.train.errors import Interrupted
from tests.unit.train.scripted import HEAD_ONLY, Scripted


def test_the_wait_goes_on_after_a_restart(job):
    settings = HEAD_ONLY | {"patience": 3}
    with pytest.raises(Interrupted):
        Scripted(job(**settings), [0.5, 0.6, 0.7, "stop"]).fit()
    again = Scripted(job(**settings), [0.8, 0.1])
    assert again.fit() is StopReason.PATIENCE
    assert again.losses == [0.1]


def test_the_best_survives_a_restart_whose_first_epoch_is_worse(job):
    with pytest.raises(Interrupted):
        Scripted(job(**HEAD_ONLY), [0.5, "stop"]).fit()
    again = Scripted(job(**HEAD_ONLY), [0.9, 0.8, 0.7, 0.6, 0.95])
    before = again.checkpoints.best_file
    again.fit()
    assert before is not None
    assert again.checkpoints.best_file == before


def paths_of(job, number):
    return list(job.paths.checkpoint_dir.glob(f"checkpoint-{number:08d}-*"))


@pytest.mark.parametrize("at", ["the end of an epoch", "an evaluation"])
def test_where_the_best_is_lost_it_begins_anew_with_what_is_there(job, at):
    """Epoch 2 was the best. What is there is the end of epoch 4, or the stop while epoch 5 was evaluated."""
    this = job(**HEAD_ONLY)
    with pytest.raises(Interrupted):
        Scripted(this, [6, 1, 5, 4, "stop"]).fit()
    paths_of(this, 1)[0].unlink()
    if at == "the end of an epoch":
        paths_of(this, 4)[0].unlink()
    again = Scripted(this, [7, 8])
    best, stopping = again.checkpoints.load_best(), again.trainer.stopping
    assert again.trainer.progress.total_epochs == 4
    assert (stopping.reference, stopping.wait) == (1, 2)  # patience goes by what was seen
    if at == "the end of an epoch":
        assert (stopping.best_value, stopping.best_epoch, best[0]["progress"]["epoch"]) == (4, 4, 4)
    else:
        assert (stopping.best_epoch, best) == (-1, None)
    again.fit()
    expected = 4 if at == "the end of an epoch" else 5
    assert (stopping.best_epoch, again.checkpoints.load_best()[0]["progress"]["epoch"]) == (expected, expected)
    assert again.trainer.progress.history[-1]["best_valid_loss"] == {4: 4, 5: 7}[expected]


@pytest.mark.parametrize(("losses", "kept"), [([5, 4, 3, 2, 1], False), ([1, 5, 4, 3, 2], True)])
def test_the_backbone_of_the_head_phase_is_kept_while_the_best_model_needs_it(job, losses, kept):
    scripted = Scripted(job(**HEAD_ONLY | {"head_epochs": 2, "epochs": 3}), losses)
    scripted.fit()
    assert bool(list(scripted.this.job.paths.checkpoint_dir.glob("base-*.pt"))) == kept
    best, base = Scripted(job(**HEAD_ONLY | {"head_epochs": 2, "epochs": 3}), []).checkpoints.load_best()
    assert (best["progress"]["phase"], base is not None) == ((0, True) if kept else (1, False))


def test_stopped_during_evaluation_the_epoch_is_not_trained_again(job):
    straight = Scripted(job("straight", **HEAD_ONLY), [6, 5, 4, 3, 2, 1])
    straight.fit()
    first = Scripted(job(**HEAD_ONLY), [6, 5, "stop"])
    with pytest.raises(Interrupted, match="step 9"):
        first.fit()
    again = Scripted(job(**HEAD_ONLY), [4, 3, 2, 1])
    again.fit()
    assert again.trainer.progress.step == straight.trainer.progress.step == 18
    assert again.trainer.progress.history[2]["train_loss"] == straight.trainer.progress.history[2]["train_loss"]
    assert all(torch.equal(value, straight.head[name]) for name, value in again.head.items())


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.5), ("batch_size", 4), ("seed", 1), ("augmentation", "none")])
def test_other_settings_than_the_checkpoints_are_refused_by_name(job, key, value):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    with pytest.raises(ConfigError, match=rf"{key} was .*, is {value}.*checkpoint directory.*set resume to weights"):
        Scripted(job(**HEAD_ONLY | {key: value}), [])


def test_other_photos_than_the_checkpoints_are_refused(job, index):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    fewer = index.model_copy(update={"splits": index.splits | {"train": index.splits["train"][1:]}})
    with pytest.raises(ConfigError, match=r"other photos.*set resume to weights"):
        Scripted(job(**HEAD_ONLY, index=fewer), [])


def test_more_patience_continues_a_run_that_had_ended_and_less_is_refused(job):
    assert Scripted(job(**HEAD_ONLY, patience=2), [0.5, 0.6, 0.7]).fit() is StopReason.PATIENCE
    assert Scripted(job(**HEAD_ONLY, patience=2), []).fit() is StopReason.PATIENCE
    more = Scripted(job(**HEAD_ONLY, patience=4), [0.8, 0.9, 0.1])
    assert more.fit() is StopReason.PATIENCE
    assert more.losses == [0.1]
    with pytest.raises(ConfigError, match="patience was 4, is 2"):
        Scripted(job(**HEAD_ONLY, patience=2), [])


def test_the_rate_is_a_function_of_the_step_also_after_a_restart(job):
    def rates(*parts):
        found = []
        for losses in parts:
            scripted = Scripted(job("x" + str(len(parts)), **HEAD_ONLY), losses)
            with contextlib.suppress(Interrupted):
                scripted.fit()
            found = [row["learning_rate"] for row in scripted.trainer.progress.history]
        return found

    assert rates([6, 5, 4, 3, 2, 1]) == rates([6, 5, "stop"], [4, 3, "stop"], [3, 2, 1])
