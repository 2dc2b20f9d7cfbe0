"""What is kept, and said, where the disk refuses a checkpoint or numbers are not finite. Losses are scripted."""

import math

import pytest
import torch

from containers.train.errors import NonFiniteLoss, Uncommitted
from tests.support.training import newest
from tests.unit.train.scripted import HEAD_ONLY, Scripted


def test_a_best_epoch_whose_weights_do_not_fit_the_disk_is_not_the_best(job):
    """What is named is what is kept: 0.2 is lost with its weights, so 0.4 is better than what there is."""
    scripted = Scripted(job(**HEAD_ONLY), [0.9, 0.5, 0.2, 0.4, 0.6, 0.7], full={3})
    scripted.fit()
    best, _base = scripted.checkpoints.load_best()
    stopping, history = scripted.trainer.stopping, scripted.trainer.progress.history
    assert (best["progress"]["epoch"], stopping.best_epoch, stopping.best_value) == (4, 4, 0.4)
    assert [row["best_valid_loss"] for row in history] == [0.9, 0.5, 0.5, 0.4, 0.4, 0.4]
    assert stopping.wait == 3  # patience goes by what was seen


def test_a_first_best_that_does_not_fit_is_no_best_at_all(job):
    scripted = Scripted(job(**HEAD_ONLY), [0.1, 0.5, 0.6, 0.7, 0.8, 0.9], full={1})
    scripted.fit()
    history = scripted.trainer.progress.history
    assert "best_valid_loss" not in history[0]
    assert "best_valid_accuracy" not in history[0]
    assert (history[-1]["best_valid_loss"], scripted.trainer.stopping.best_epoch) == (0.5, 2)
    assert scripted.checkpoints.load_best()[0]["progress"]["epoch"] == 2


def test_a_stop_whose_checkpoint_does_not_fit_says_so(job):
    with pytest.raises(Uncommitted, match="could not be written"):
        Scripted(job(**HEAD_ONLY), [0.5, 0.4, "stop"], full={3}).fit()
    assert newest(job(**HEAD_ONLY))["progress"]["epoch"] == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_best_kept(job, bad):
    scripted = Scripted(job(**HEAD_ONLY), [0.5, bad])
    with pytest.raises(NonFiniteLoss, match=r"validation loss .* epoch 2.*epoch 1\) is kept.*learning_rate"):
        scripted.fit()
    assert newest(scripted.this.job)["progress"]["epoch"] == 1


def test_a_training_loss_that_is_not_finite_ends_the_run_before_its_epoch_is_called_the_best(job):
    class Skipped(Scripted):
        """As a scaler does: the step of one loss that is not finite is skipped, and the weights stay good."""

        def start(self, this, number):
            phase = super().start(this, number)
            if not self.evaluations:
                phase.stepper.sums[0] = math.inf
            return phase

    with pytest.raises(NonFiniteLoss, match=r"training loss.*epoch 1.*there is no earlier evaluation"):
        Skipped(job(**HEAD_ONLY), [0.5]).fit()


def only_finite_weights_in(job):
    paths = list(job.paths.checkpoint_dir.glob("checkpoint-*.pt"))
    assert paths
    for path in paths:
        state = torch.load(path, weights_only=True)
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_training_loss_that_is_not_finite_is_noticed_at_once_and_never_reaches_a_checkpoint(job):
    class Poisoned(Scripted):
        def start(self, this, number):
            phase = super().start(this, number)
            step = phase.stepper.step

            def poisoned(batch, rate, number):
                if number == 4:  # the second of the second epoch
                    with torch.no_grad():
                        this.model.classifier[3].weight.fill_(math.nan)
                return step(batch, rate, number)

            phase.stepper.step = poisoned
            return phase

    scripted = Poisoned(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1])
    with pytest.raises(NonFiniteLoss, match="the training loss"):
        scripted.fit()
    assert scripted.trainer.progress.step == 5  # before the epoch's end
    only_finite_weights_in(scripted.this.job)


def test_weights_that_are_not_finite_never_reach_a_checkpoint_though_no_loss_has_shown_it_yet(job):
    """The last step before a checkpoint may have made them so: its own loss was finite."""

    class Poisoned(Scripted):
        def evaluate(self):
            if len(self.losses) == 5:
                with torch.no_grad():
                    self.this.model.classifier[3].weight.fill_(math.nan)
            return super().evaluate()

    scripted = Poisoned(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1])
    with pytest.raises(NonFiniteLoss, match=r"a weight is NaN .* epoch 2, .*epoch 1\) is kept"):
        scripted.fit()
    only_finite_weights_in(scripted.this.job)
