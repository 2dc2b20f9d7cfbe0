"""With `stop_on_nonfinite` off: steps that are not taken, on no rank, and runs that end all the same."""

import math

import pytest
import torch
from torch import nn

from containers.train import nonfinite, optimisation, worker
from containers.train.distributed import Group
from containers.train.early_stopping import StopReason
from containers.train.errors import NonFiniteLoss
from containers.train.optimisation import Stepper, make_optimizer
from tests.support.training import events, in_ranks, learned, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint
from tests.unit.train.scripted import HEAD_ONLY, Scripted
from tests.unit.train.steps import batch, config

SGD = {"optimizer": "sgd"}
ALL_LAYERS = {"head_epochs": 0, "epochs": 2, "stop_on_nonfinite": False}
"""Two epochs of three steps."""


def spoilt_at(*numbers):
    """What makes the input NaN in these passes, counted from 0."""
    passes = iter(range(1000))
    return lambda x: x * math.nan if next(passes) in numbers else x


class Steps:
    """Of a small net with a batch norm."""

    def __init__(self, group=None, *, amp=None, make=Stepper, prepare=lambda x: x, **changes):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
        chosen = config(**{"stop_on_nonfinite": False, **changes})
        optimizer = make_optimizer(self.module, chosen, "3.")
        self.stepper = make(self.module, optimizer, chosen, group or Group.alone(), prepare=prepare, amp_dtype=amp)

    def take(self, *numbers):
        for number in numbers:
            self.stepper.step(batch(), 0.1, number)
        return self

    @property
    def state(self):
        """All that a step changes."""
        stepper = self.stepper
        return {
            "model": {name: tensor.clone() for name, tensor in self.module.state_dict().items()},
            "optimizer": {
                number: {name: tensor.clone() for name, tensor in state.items()}
                for number, state in stepper.optimizer.state_dict()["state"].items()
            },
            "sums": stepper.sums.tolist(),
        }


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("chosen", [{"optimizer": "adamw"}, SGD, SGD | {"momentum": 0}], ids=str)
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(chosen, clip, skipped):
    """Also where it was the first, of which an optimiser makes its state."""
    found = Steps(**chosen, clip_grad_norm=clip, prepare=spoilt_at(skipped)).take(0, 1)
    assert same(found.state, Steps(**chosen, clip_grad_norm=clip).take(1 - skipped).state)
    assert found.stepper.skipping.counts.tolist() == [1, skipped]


def test_a_gradient_that_is_not_finite_is_skipped_though_its_loss_is():
    found = Steps().take(0)
    before = found.state
    hook = found.module[0].weight.register_hook(lambda gradient: gradient * math.inf)
    assert same(found.take(1).state, before)
    hook.remove()
    assert not same(found.take(2).state["model"], before["model"])


@pytest.mark.parametrize("chosen", [{"optimizer": "adamw"}, SGD], ids=str)
def test_where_every_step_is_finite_nothing_is_different(chosen):
    found, usual = Steps(**chosen).take(0, 1, 2).state, Steps(**chosen, stop_on_nonfinite=True).take(0, 1, 2).state
    assert found["sums"] == pytest.approx(usual["sums"])
    for name, tensor in usual["model"].items():
        assert torch.allclose(found["model"][name], tensor, atol=1e-7), name


def test_a_loss_that_is_scaled_is_skipped_by_its_scaler():
    found = Steps(amp=torch.float16, prepare=spoilt_at(1)).take(0)
    before, scale = found.state, found.stepper.scaler.get_scale()
    assert same(found.take(1).state, before)
    assert found.stepper.scaler.get_scale() == scale / 2
    assert not same(found.take(2).state["model"], before["model"])
    assert found.stepper.skipping.counts.tolist() == [1, 0]


def test_a_gradient_that_overflows_because_it_is_scaled_is_the_scalers_and_no_number_that_is_not_finite():
    """As in the first steps of most runs in float16; one that never ends is noticed all the same."""
    found = Steps(amp=torch.float16).take(0)
    found.stepper.scaler.load_state_dict(found.stepper.scaler.state_dict() | {"scale": 2.0**60})
    before, photos = found.state, []
    for number in (1, 2, 3):
        photos.append(found.take(number).state["sums"][2])
    assert photos == [16, 24, 32]
    assert same(found.state["optimizer"], before["optimizer"])
    assert all(torch.equal(tensor, before["model"][name]) for name, tensor in found.module.named_parameters())
    assert found.stepper.scaler.get_scale() == 2.0**57
    assert found.stepper.skipping.counts.tolist() == [0, 3]


def test_a_run_that_did_not_skip_goes_on_skipping():
    """Its checkpoint is of an optimiser that was not fused, and perhaps had made no step."""
    for taken in ((), (0,)):
        before = Steps(**SGD, stop_on_nonfinite=True).take(*taken)
        again = Steps(**SGD, prepare=spoilt_at(0))
        again.module.load_state_dict(before.module.state_dict())
        again.stepper.optimizer.load_state_dict(before.stepper.optimizer.state_dict())
        assert same(again.take(1).state["model"], before.state["model"])
        assert all(tensor.isfinite().all() for tensor in again.take(2).state["model"].values())


class OneRankInfinite(Stepper):
    """As a loss that overflows where its gradient does not: what the ranks share is finite, and only one knows."""

    def _micro_batch(self, *arguments, **named):
        sums = super()._micro_batch(*arguments, **named)
        if self._group.rank == 1:
            sums[0] = math.inf
        return sums


@pytest.mark.parametrize("amp", [None, torch.float16], ids=str)
def test_a_loss_that_only_one_rank_sees_is_skipped_by_all(amp):
    def body(group):
        steps = Steps(group, amp=amp, make=OneRankInfinite)
        before = steps.state["model"]
        return same(steps.take(0).state["model"], before), steps.stepper.skipping.counts.tolist(), steps.stepper.sums.tolist()

    assert in_ranks(2, body) == [(True, [1, 1], [0, 0, 0])] * 2


def spoiling(rank, numbers):
    """A worker of which one rank's photos become NaN in these steps; every rank leaves what it has after each step."""

    def main(job_file):
        step = optimisation.Stepper.step

        def spoilt(self, batch, rate, number):
            prepare = self._prepare
            if number in numbers and self._group.rank == rank:
                self._prepare = lambda images: prepare(images) * math.nan
            loss = step(self, batch, rate, number)
            self._prepare = prepare
            # what is of a rank alone, statistics, is made equal where it is used
            kept = {name: tensor.clone() for name, tensor in self._network.module.named_parameters()}
            optimizer = self.optimizer.state_dict()["state"]
            finite = all(tensor.isfinite().all() for tensor in self._network.module.state_dict().values())
            told = {"kept": kept, "optimizer": optimizer, "finite": finite}
            torch.save(told, job_file.with_name(f"step{number}-{self._group.rank}.pt"))
            return loss

        optimisation.Stepper.step = spoilt  # in a forked process of its own
        return worker.main(job_file)

    return main


@pytest.mark.slow
def test_a_step_that_only_one_rank_sees_spoilt_is_taken_by_none(job):
    skipped = job(**ALL_LAYERS)
    workers = train(skipped, world_size=2, main=spoiling(1, {1}))
    held = {
        (number, rank): torch.load(skipped.paths.scratch_dir / f"step{number}-{rank}.pt", weights_only=True)
        for number in range(6)
        for rank in (0, 1)
    }
    assert all(each["finite"] for each in held.values())
    for rank in (0, 1):
        assert same(held[1, rank], held[0, rank]), f"rank {rank}"
    for number in range(6):
        assert same(held[number, 0], held[number, 1]), f"step {number}"
    assert not same(held[2, 0]["kept"], held[1, 0]["kept"])
    first, second = events(workers, "epoch")
    assert (first["skipped_steps"], second["skipped_steps"]) == (1, 0)
    (warned,) = events(workers, "steps were skipped: their loss or gradient was not finite")
    assert (warned["level"], warned["steps"]) == ("WARNING", 1)
    assert "1 steps were skipped" in (skipped.paths.model_dir / "report/MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_a_run_that_skipped_resumes_bitwise(job):
    """Killed right after the step that was skipped: it counts in the epoch that goes on."""
    straight, again = job("straight", **ALL_LAYERS), job(**ALL_LAYERS, checkpoint_every_seconds=EVERY_STEP)
    train(straight, main=alone_spoilt(1))
    train(again, main=alone_spoilt(1, killed_after_checkpoint(2)), expect=-9)
    train(again)
    assert same(learned(again), learned(straight))
    assert newest(again)["progress"]["history"][0]["skipped_steps"] == 1


def alone_spoilt(number, main=worker.main):
    def spoiling(job_file):
        step = optimisation.Stepper.step

        def spoilt(self, batch, rate, at):
            prepare = self._prepare
            if at == number:
                self._prepare = lambda images: prepare(images) * math.nan
            loss = step(self, batch, rate, at)
            self._prepare = prepare
            return loss

        optimisation.Stepper.step = spoilt  # in a forked process of its own
        return main(job_file)

    return spoiling


@pytest.mark.slow
def test_a_run_of_which_one_rank_sees_nothing_but_nan_ends_on_all(job):
    workers = train(job(**ALL_LAYERS), world_size=2, main=spoiling(1, range(100)), expect=1)
    for rank in (0, 1):
        (failed,) = [line for line in workers.lines(rank) if line["event"] == "failed"]
        assert failed["kind"] == "NonFiniteLoss"
        assert failed["reason"].startswith("the loss or gradient of every training step is NaN or infinite in epoch 1")


class Spoilt(Scripted):
    """Every step from number 4 on, the second of the second epoch."""

    def start(self, this, number, saved=None):
        phase = super().start(this, number, saved)
        phase.stepper._prepare = spoilt_at(*range(4, 100))
        return phase


def test_too_many_in_a_row_end_a_run_before_its_epoch_is_over(job, monkeypatch):
    monkeypatch.setattr(nonfinite, "MOST_IN_A_ROW", 1)
    scripted = Spoilt(job(**HEAD_ONLY, stop_on_nonfinite=False), [6, 5, 4, 3, 2, 1])
    with pytest.raises(
        NonFiniteLoss, match=r"steps in a row is NaN .*epoch 2, near step 5; the best model \(epoch 1\) is kept"
    ):
        scripted.fit()


def test_an_epoch_that_was_skipped_whole_ends_a_run(job):
    scripted = Spoilt(job(**HEAD_ONLY, stop_on_nonfinite=False), [6, 5, 4, 3, 2, 1])
    with pytest.raises(NonFiniteLoss, match=r"every training step is NaN .*epoch 3, .*epoch 2\) is kept"):
        scripted.fit()
    assert scripted.trainer.progress.history[1]["skipped_steps"] == 2
    assert newest(scripted.this.job)["progress"]["epoch"] == 2


def test_an_evaluation_that_is_not_finite_is_no_improvement(job):
    scripted = Scripted(job(**HEAD_ONLY, stop_on_nonfinite=False, patience=2), [math.nan, 0.5, math.inf, math.nan, 0.1])
    assert scripted.fit() is StopReason.PATIENCE
    assert (scripted.losses, scripted.trainer.stopping.best_epoch) == ([0.1], 2)
    assert "best_valid_loss" not in scripted.trainer.progress.history[0]
    assert scripted.trainer.progress.history[3]["best_valid_loss"] == 0.5


def test_a_run_without_any_evaluation_that_is_finite_ends_with_an_error(job):
    with pytest.raises(NonFiniteLoss, match=r"the validation loss of every epoch .* in epoch 6, .* set precision to fp32$"):
        Scripted(job(**HEAD_ONLY, stop_on_nonfinite=False), [math.nan] * 6).fit()
