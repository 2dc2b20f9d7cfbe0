"""When things happen. Losses are scripted, the rest is real; whole processes are in test_session."""

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import re

import pytest
import torch

from containers.core import logs
from containers.core.errors import ConfigError
from containers.core.metrics import METRICS
from containers.train import phases, results, resume, run
from containers.train.checkpoint import Checkpoints
from containers.train.distributed import StopRequest, StopRequested
from containers.train.early_stopping import StopReason
from containers.train.errors import Interrupted, NonFiniteLoss, Uncommitted
from containers.train.evaluation import Scores
from containers.train.recorder import Recorder
from containers.train.trainer import Trainer
from tests.support.training import newest, same, train


def scores(loss):
    one = torch.tensor([0])
    return Scores(one, torch.tensor([loss], dtype=torch.float64), one, one, one.double(), torch.empty(1, 0), 2)


class Scripted:
    """Trains the head for real; the validation losses are given. 'stop' is a request to stop during the evaluation.

    The disk refuses the checkpoints of the evaluations in `full`, counted from 1.
    """

    def __init__(self, job, losses, full=()):
        self.this = run.prepare(job, StopRequest())
        self.losses, self.full, self.evaluations = list(losses), set(full), 0
        self.checkpoints = Checkpoints(job.paths.checkpoint_dir, self.this.group, self.on_commit)
        recorder = Recorder(job.paths.output_dir / "tensorboard", active=True)
        restored = self.checkpoints.restore()
        facts = resume.check(restored.state["facts"], self.this) if restored else resume.facts(self.this, "none")
        self.trainer = Trainer(self.this, self.checkpoints, recorder, facts, start=self.start)
        if restored:
            self.trainer.resume(restored)

    def start(self, this, number):
        phase = phases.start(this, number)
        return dataclasses.replace(phase, evaluate=self.evaluate)

    def on_commit(self, step):
        if step.startswith("write checkpoint") and self.evaluations in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def evaluate(self):
        loss = self.losses.pop(0)
        self.evaluations += 1
        if loss == "stop":
            raise StopRequested
        return scores(loss)

    def fit(self):
        return self.trainer.fit()

    @property
    def head(self):
        return {name: value.clone() for name, value in self.this.model.classifier[3].state_dict().items()}


HEAD_ONLY = {"architecture": "mobilenet_v3_small", "epochs": 0, "head_epochs": 6, "deterministic": False}


def test_patience_ends_the_run_and_the_best_checkpoint_stays(job):
    scripted = Scripted(job(**HEAD_ONLY, patience=3), [1, 0.9, 0.95, 0.96, 0.97, 0.1])
    assert scripted.fit() is StopReason.PATIENCE
    assert scripted.losses == [0.1]
    best, _base = scripted.checkpoints.load_best()
    assert best["progress"]["epoch"] == 2
    assert scripted.trainer.stopping.best_epoch == 2


def test_ranks_whose_numbers_differ_decide_as_one_and_end_with_the_best_weights(job):
    """Rank 1's own losses would go on for ever and call its last epoch the best; both ranks hear rank 0's."""
    tiny = job(**HEAD_ONLY, patience=2)

    def main(job_file):
        rank = int(os.environ["RANK"])
        scripted = Scripted(tiny, ([0.9, 0.5, 0.6, 0.7, 0.1, 0.1], [9, 8, 7, 6, 5, 4])[rank])
        reason = scripted.fit()
        last = scripted.head
        results.finish(scripted.this, scripted.trainer, scripted.checkpoints, reason)
        seen = (str(reason), scripted.trainer.progress.step, scripted.trainer.stopping.state_dict())
        torch.save({"seen": seen, "last": last, "kept": scripted.head}, job_file.with_name(f"rank{rank}.pt"))
        scripted.this.group.barrier()
        return 0

    train(tiny, world_size=2, main=main)
    first, second = (torch.load(tiny.paths.scratch_dir / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["seen"] == second["seen"]
    assert (first["seen"][0], first["seen"][1], first["seen"][2]["best_epoch"]) == (str(StopReason.PATIENCE), 12, 2)
    best = torch.load(next(tiny.paths.checkpoint_dir.glob("checkpoint-00000001-*")), weights_only=True)
    assert same(first["kept"], second["kept"])
    assert same(first["kept"], best["model"])
    assert not same(first["kept"], first["last"])


def test_all_epochs_is_the_other_reason(job):
    assert Scripted(job(**HEAD_ONLY, patience=3), [6, 5, 4, 3, 2, 1]).fit() is StopReason.EPOCHS


def test_a_phase_that_stopped_early_is_followed_by_the_next_on_its_best_weights(job):
    begun = []

    class Watching(Scripted):
        def start(self, this, number):
            begun.append({name: value.clone() for name, value in this.model.classifier[3].state_dict().items()})
            return super().start(this, number)

    scripted = Watching(job(**HEAD_ONLY | {"epochs": 2}, patience=2), [0.5, 0.6, 0.7, 0.8, 0.9])
    assert scripted.fit() is StopReason.PATIENCE
    assert [row["phase"] for row in scripted.trainer.progress.history] == ["head"] * 3 + ["all"] * 2
    best, _ = scripted.checkpoints.load_best()
    assert best["progress"]["epoch"] == 1
    assert all(torch.equal(begun[1][name], best["model"][name]) for name in begun[1])


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


def test_one_metric_line_per_epoch_that_the_published_expressions_find(job):
    stream = io.StringIO()
    logs.configure(stream=stream)
    try:
        Scripted(job(**HEAD_ONLY, patience=2), [0.5, 0.4, 0.6, 0.7]).fit()
    finally:
        logs.configure()
    lines = [line for line in stream.getvalue().splitlines() if json.loads(line)["event"] == "epoch"]
    assert len(lines) == 4
    for metric in METRICS:
        if not metric.field.startswith("test_"):
            assert re.search(metric.regex, lines[2]), metric.field
    row = json.loads(lines[2])
    assert (row["valid_loss"], row["best_valid_loss"], row["epoch"], row["phase"]) == (0.6, 0.4, 3, "head")


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


def test_a_head_on_cached_features_learns_what_it_learns_behind_the_frozen_backbone(job):
    class On(Scripted):
        def start(self, this, number):
            return self.begin(this)

    settings = HEAD_ONLY | {"augmentation": "none", "head_epochs": 3, "mixup": 0.4, "cutmix": 1.0}  # both are for phase 2
    cached, plain = On(job("cached", **settings), []), On(job("plain", **settings), [])
    cached.begin, plain.begin = phases._head_on_features, phases._head_on_photos
    cached.fit()
    plain.fit()
    for name, value in cached.head.items():
        assert torch.allclose(value, plain.head[name], atol=1e-5)
    for one, other in zip(cached.trainer.progress.history, plain.trainer.progress.history, strict=True):
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], abs=1e-5)
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
