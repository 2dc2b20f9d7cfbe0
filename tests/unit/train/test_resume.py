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
    with pytest.raises(ConfigError, match=rf"{key} was .*, is {value}.*checkpoint directory"):
        Scripted(job(**HEAD_ONLY | {key: value}), [])


def test_other_photos_than_the_checkpoints_are_refused(job, index):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    fewer = index.model_copy(update={"splits": index.splits | {"train": index.splits["train"][1:]}})
    with pytest.raises(ConfigError, match="other photos"):
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
