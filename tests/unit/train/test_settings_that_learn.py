"""Settings that change what is learned, in whole runs: each really trains with them, and resumes bitwise."""

import json
import math

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.nn import functional as F

from containers.core import manifest
from containers.train import optimisation, phases, run, worker
from containers.train.agreement import StopRequest
from containers.train.checkpoint import LATEST
from tests.support.training import events, learned, make_job, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint

PHOTOS_ONLY = {"head_epochs": 0, "epochs": 2}
MIXED = {"mixup": 0.2, "cutmix": 1.0}


def best(job):
    """The state of the best evaluation."""
    name = newest(job)["best_file"] or json.loads((job.paths.checkpoint_dir / LATEST).read_text())["file"]
    return torch.load(job.paths.checkpoint_dir / name, weights_only=True)


def written(job):
    return load_file(job.paths.model_dir / manifest.WEIGHTS_FILE)


def plain(state):
    return {name: tensor.contiguous() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def averaging(tmp_path_factory, index):
    """A run that averages its weights, and its log."""
    torch.set_num_threads(1)
    ended = make_job(tmp_path_factory.mktemp("averaging"), index, **PHOTOS_ONLY, ema_decay=0.5)
    return ended, train(ended)


def killed_and_resumed(job, **settings):
    again = job(**PHOTOS_ONLY, **settings, checkpoint_every_seconds=EVERY_STEP)
    train(again, main=killed_after_checkpoint(2), expect=-9)
    train(again)
    return again


def test_a_run_that_averages_resumes_bitwise(job, averaging):
    again, (straight, _) = killed_and_resumed(job, ema_decay=0.5), averaging
    assert same(learned(again), learned(straight))
    assert same(written(again), written(straight))


def test_the_average_is_what_is_evaluated_and_written(averaging):
    ended, workers = averaging
    state = best(ended)
    average = phases.averaged(state["average"])
    assert same(written(ended), plain(average))
    assert not same(plain(average), plain(state["model"]))
    (result,) = events(workers, "result")
    evaluated = events(workers, "epoch")[int(result["best_epoch"]) - 1]["valid_loss"]
    assert evaluated == pytest.approx(result["valid_loss"], rel=1e-5)  # measured once more, of what was written


def test_a_run_that_mixes_photos_resumes_bitwise(job):
    straight = job("straight", **PHOTOS_ONLY, **MIXED)
    train(straight)
    assert same(learned(killed_and_resumed(job, **MIXED)), learned(straight))


@pytest.mark.parametrize(("phase", "mixed"), [(phases.HEAD, False), (phases.ALL, True)])
def test_photos_are_mixed_where_all_layers_learn(job, phase, mixed):
    losses = []
    for settings in ({}, MIXED):
        started = phases.start(run.prepare(job(str(len(settings)), **settings), StopRequest()), phase)
        losses.append(started.stepper.step(next(started.batches.epoch(0, 0)), 0.0, 0).item())
    assert (losses[0] != losses[1]) == mixed
    assert all(map(math.isfinite, losses))


def test_compressed_gradients_are_half_the_bytes_and_learn_the_same(job):
    def counting(job_file):
        reduce, sent = dist.all_reduce, []

        def counted(tensor, *arguments, **named):
            if tensor.numel() > 1000:  # gradients, and no sums
                sent.append(tensor.numel() * tensor.element_size())
            return reduce(tensor, *arguments, **named)

        dist.all_reduce = counted  # in a forked process of its own
        code = worker.main(job_file)
        job_file.with_name("sent").write_text(str(sum(sent)))
        return code

    settings = {"head_epochs": 0, "epochs": 1}
    whole, half = job("whole", **settings), job("half", **settings, gradient_compression=True)
    rows = [events(train(each, world_size=2, main=counting), "epoch")[0] for each in (whole, half)]
    sent = [int((each.paths.scratch_dir / "sent").read_text()) for each in (whole, half)]
    assert sent[0] > 0
    assert sent[1] * 2 == sent[0]
    assert rows[1]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=0.02)
    assert not same(newest(half)["model"], newest(whole)["model"])


def test_rare_classes_weigh_more_in_the_loss(job, index):
    """Two photos of three are of one class."""
    photos = index.splits["train"]
    fewer = [photo for photo in photos if photo.label == 1][:4]
    unequal = index.model_copy(update={"splits": index.splits | {"train": (*[p for p in photos if p.label == 0], *fewer)}})
    weighed = job(index=unequal, head_epochs=1, epochs=0, class_balance="weights", label_smoothing=0)
    this = run.prepare(weighed, StopRequest())
    phase = phases.start(this, phases.HEAD)
    (first, *_) = phase.batches.epoch(0, 0)
    assert set(first.labels.tolist()) == {0, 1}
    weights = optimisation.class_weights(this.labels("train"), 2)
    assert weights[1] > 2 * weights[0]
    expected = F.cross_entropy(phase.learned(first.images), first.labels, weights, reduction="sum") / first.total
    assert phase.stepper.step(first, 0.1, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert events(train(weighed), "result")


def test_where_a_loss_is_not_finite_the_best_model_is_what_is_left(job):
    def poisoned(job_file):
        step = optimisation.Stepper.step

        def poison(self, batch, rate, number):
            if number == 7:  # the second of the third epoch
                with torch.no_grad():
                    self._parameters[0].fill_(float("nan"))
            return step(self, batch, rate, number)

        optimisation.Stepper.step = poison  # in a forked process of its own
        return worker.main(job_file)

    ended = job(**PHOTOS_ONLY | {"epochs": 4})
    workers = train(ended, expect=1, main=poisoned)
    assert events(workers, "failed")[0]["kind"] == "NonFiniteLoss"
    state = best(ended)
    assert manifest.read(ended.paths.model_dir).metrics["best_epoch"] == state["progress"]["epoch"]
    assert same(written(ended), plain(state["model"]))
    assert all(tensor.isfinite().all() for tensor in written(ended).values())
