"""Another recipe, or other photos, that begin with the best weights of the run before."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from containers.core import logs, manifest
from containers.core.errors import ConfigError
from containers.train import trainer, worker
from containers.train.agreement import StopRequested
from containers.train.errors import Interrupted, NotBegun
from tests.support.training import events, learned, make_job, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint
from tests.unit.train.scripted import HEAD_ONLY, Scripted

WEIGHTS = {"resume": "weights", "learning_rate": 0.02, "seed": 1}
"""Another recipe."""


@pytest.fixture(scope="module")
def former(tmp_path_factory, index):
    """A run that has ended."""
    torch.set_num_threads(1)
    ended = make_job(tmp_path_factory.mktemp("former"), index)
    train(ended)
    return ended


def after(former, job, *name, **settings):
    """A job whose checkpoint directory is what `former` left."""
    begun = job(*name, **WEIGHTS | settings)
    shutil.copytree(former.paths.checkpoint_dir, begun.paths.checkpoint_dir)
    return begun


def telling(job_file):
    """Each rank leaves the weights that it begins with in `scratch_dir`."""
    fit = trainer.Trainer.fit

    def told(self):
        torch.save(self._run.model.state_dict(), job_file.with_name(f"begin-{self._run.group.rank}.pt"))
        return fit(self)

    trainer.Trainer.fit = told  # in a forked process of its own
    return worker.main(job_file)


def begun_with(job, rank=0):
    held = torch.load(job.paths.scratch_dir / f"begin-{rank}.pt", weights_only=True)
    return {name: value.contiguous() for name, value in held.items()}


def test_another_recipe_begins_with_the_best_weights_of_the_run_before_on_every_rank(job, former):
    begun = after(former, job)
    workers = train(begun, world_size=2, main=telling)
    written = load_file(former.paths.model_dir / manifest.WEIGHTS_FILE)
    assert same(begun_with(begun, 0), written)
    assert same(begun_with(begun, 1), written)
    assert [row["epoch"] for row in events(workers, "epoch")] == [1, 2, 3, 4]
    state, facts = newest(begun), manifest.read(begun.paths.model_dir)
    assert state["progress"]["step"] == newest(former)["progress"]["step"]
    assert state["stopping"]["best_value"] == min(row["valid_loss"] for row in state["progress"]["history"])
    best_before = int(manifest.read(former.paths.model_dir).metrics["best_epoch"])
    assert facts.provenance.pretrained.startswith(f"epoch {best_before} of the run begun at ")
    assert facts.provenance.config["learning_rate"] == 0.02


@pytest.mark.parametrize("step", [1, 7])
def test_a_run_that_began_with_weights_goes_on_bitwise_when_it_is_killed(job, former, step):
    straight, again = after(former, job, "straight"), after(former, job, checkpoint_every_seconds=EVERY_STEP)
    train(straight)
    train(again, main=killed_after_checkpoint(step), expect=-9)
    assert (newest(again)["best_file"] is None) == (step == 1), "before its first evaluation it has no best"
    assert events(train(again), "resumed")[0]["step"] == step
    assert same(learned(again), learned(straight))


def test_killed_before_its_first_checkpoint_it_begins_with_the_weights_again(job, former):
    def dying(job_file):
        trainer.Trainer.fit = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # in a forked process of its own
        return worker.main(job_file)

    again = after(former, job)
    train(again, main=dying, expect=-9)
    train(again, main=telling)
    assert same(begun_with(again), load_file(former.paths.model_dir / manifest.WEIGHTS_FILE))


def test_the_best_of_the_run_before_is_no_best_of_this_one(job):
    """Patience and best begin anew: a loss that the run before was below counts."""
    Scripted(job(**HEAD_ONLY), [0.6, 0.1, 0.4, 0.3, 0.2, 0.5]).fit()
    again = Scripted(job(**HEAD_ONLY | WEIGHTS), [0.9, 0.8, 0.95, 0.96, 0.97, 0.98])
    again.fit()
    assert (again.trainer.stopping.best_value, again.trainer.stopping.best_epoch) == (0.8, 2)
    assert again.checkpoints.load_best()[0]["progress"]["epoch"] == 2
    assert [row["epoch"] for row in again.trainer.progress.history] == [1, 2, 3, 4, 5, 6]


def test_the_same_recipe_goes_on_also_where_weights_would_do(job):
    """As after a spot interruption of a run that began with weights."""
    settings = HEAD_ONLY | WEIGHTS
    with pytest.raises(Interrupted):
        Scripted(job(**settings), [0.5, 0.6, "stop"]).fit()
    assert Scripted(job(**settings | {"resume": "auto"}), []).trainer.progress.total_epochs == 2
    assert Scripted(job(**settings), []).trainer.progress.total_epochs == 2


def test_other_photos_of_the_same_classes_begin_with_the_weights(job, index):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    more = index.model_copy(update={"splits": index.splits | {"train": index.splits["train"][1:]}})
    again = Scripted(job(**HEAD_ONLY, index=more, resume="weights"), [])
    assert (again.trainer.progress.total_epochs, again.trainer.facts["fingerprint"]) == (0, more.fingerprint)


def test_where_nothing_was_evaluated_the_last_weights_are_taken(job):
    first = Scripted(job(**HEAD_ONLY), ["stop"])
    with pytest.raises(Interrupted):
        first.fit()
    again = Scripted(job(**HEAD_ONLY | WEIGHTS), [])
    assert again.trainer.facts["pretrained"].startswith("step 3, before any evaluation, of the run begun at ")
    assert same(again.head, first.head)


class StoppedAtOnce(Scripted):
    """While its first phase is made ready."""

    def start(self, this, number, saved=None):
        raise StopRequested


def test_stopped_before_its_first_step_there_is_nothing_of_it_to_go_on_from(job):
    """Unlike a run that goes on, of which the checkpoint is."""
    with pytest.raises(Interrupted):
        Scripted(job(**HEAD_ONLY), [0.5, "stop"]).fit()
    with pytest.raises(Interrupted, match="the last checkpoint stands"):
        StoppedAtOnce(job(**HEAD_ONLY), []).fit()
    with pytest.raises(NotBegun):
        StoppedAtOnce(job(**HEAD_ONLY | WEIGHTS), []).fit()


def test_weights_of_another_architecture_are_refused_by_name(job):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    with pytest.raises(ConfigError, match="has those of mobilenet_v3_small, not of resnet18: set architecture to mobilenet"):
        Scripted(job(**HEAD_ONLY | WEIGHTS | {"architecture": "resnet18"}), [])


@pytest.mark.parametrize(
    ("classes", "told"), [(("class0", "pug"), "not here: class1; new: pug"), (("class1", "class0"), "in another order")]
)
def test_weights_of_other_classes_are_refused_by_name(job, index, classes, told):
    Scripted(job(**HEAD_ONLY), [6, 5, 4, 3, 2, 1]).fit()
    with pytest.raises(ConfigError, match=rf"other classes apart \({told}\): train on the same classes"):
        Scripted(job(**HEAD_ONLY | WEIGHTS, index=index.model_copy(update={"class_names": classes})), [])


def test_weights_that_are_not_there_are_missed_aloud(job, capsys):
    logs.configure(host="here")
    Scripted(job(**HEAD_ONLY | WEIGHTS), [])
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "resume is weights" in line]
    assert line["level"] == "WARNING"
