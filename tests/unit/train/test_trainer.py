"""When things happen. Losses are scripted, the rest is real; whole processes are in test_session."""

import io
import json
import os
import re

import pytest
import torch

from containers.core import logs
from containers.core.metrics import METRICS
from containers.train import phases, results
from containers.train.early_stopping import StopReason
from tests.support.training import same, train
from tests.unit.train.scripted import HEAD_ONLY, Scripted


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
