"""Whole runs in real processes: killed, stopped, joined and restarted, they end bitwise like undisturbed ones."""

import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch.distributed as dist

from containers.core import manifest
from containers.train import data, optimisation, results, trainer, worker
from containers.train.errors import TrainingError
from containers.train.index import DatasetIndex
from tests.support.training import Workers, events, learned, make_index, newest, same, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint, weights

STEPS = 12  # of the tiny job: two phases of two epochs of three steps


@pytest.mark.parametrize(("step", "before", "after"), [(1, 0, 0), (6, 2, 0), (8, 0, 2), (11, 2, 0)])
def test_killed_at_any_step_and_resumed_it_is_bitwise_the_undisturbed_run(job, undisturbed, step, before, after):
    train(job(num_workers=before, checkpoint_every_seconds=EVERY_STEP), main=killed_after_checkpoint(step), expect=-9)
    again = job(num_workers=after)
    assert events(train(again), "resumed")[0]["step"] == step
    assert same(learned(again), learned(undisturbed))
    assert same(weights(again), weights(undisturbed))


def killed_pair(job, around=lambda main: main):
    """Two ranks, of which the one that writes is killed in the middle of an epoch."""
    workers = Workers(job, 2, around(killed_after_checkpoint(7)))
    assert workers.wait()[0] == -signal.SIGKILL
    assert newest(job)["progress"]["samples"] > 0


def test_killed_on_two_ranks_and_resumed_on_two_it_is_bitwise_the_undisturbed_run(job, undisturbed_pair):
    killed_pair(job(checkpoint_every_seconds=EVERY_STEP))
    again = job()
    train(again, world_size=2)
    assert same(learned(again), learned(undisturbed_pair[0]))


def test_a_finished_run_started_again_trains_nothing_and_writes_the_same_model(undisturbed):
    before, state = (undisturbed.paths.model_dir / manifest.MANIFEST_FILE).read_bytes(), newest(undisturbed)
    again = train(undisturbed)
    assert not events(again, "epoch")
    assert len(events(again, "result")) == 1
    assert same(newest(undisturbed), state)
    assert (undisturbed.paths.model_dir / manifest.MANIFEST_FILE).read_bytes() == before


def test_what_was_read_of_a_checkpoint_is_held_by_nobody_once_training_goes_on(job, undisturbed):
    """Twice and more the model's size, to the end of the run, for nothing."""
    again = job()
    shutil.copytree(undisturbed.paths.checkpoint_dir, again.paths.checkpoint_dir)
    held = again.paths.scratch_dir / "held"

    def main(job_file):
        kept = []
        resume = trainer.Trainer.resume

        def watching(self, restored):
            kept.append(weakref.ref(restored))
            resume(self, restored)

        def finish(*_):
            gc.collect()
            held.write_text(str(kept[0]() is not None))
            raise TrainingError("seen")

        trainer.Trainer.resume, results.finish = watching, finish  # in a forked process of its own
        return worker.main(job_file)

    train(again, expect=1, main=main)
    assert held.read_text() == "False"


def test_a_loader_that_dies_while_its_rank_computes_has_the_same_name(job):
    def main(job_file):
        step = optimisation.Stepper.step

        def killing(self, batch, rate, number):
            if number == 8:  # torch raises from its signal handler, out of whatever runs
                for loader in multiprocessing.active_children():
                    loader.kill()
                time.sleep(5)
            return step(self, batch, rate, number)

        optimisation.Stepper.step = killing  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job(num_workers=1), expect=1, main=main)
    (failed,) = events(workers, "failed")
    assert failed["kind"] == "WorkerFailed"
    assert "a process that loads photos died" in failed["reason"]


def test_gpus_that_find_no_room_to_talk_through_while_they_train_are_named(job):
    def main(job_file):
        def step(*_):  # as NCCL says it: it opens a way between two GPUs when they first use it
            raise dist.DistBackendError("ncclSystemError\nError while creating shared memory segment /dev/shm/nccl-x (size 9)")

        optimisation.Stepper.step = step  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job(), expect=4, main=main)
    (failed,) = events(workers, "failed")
    assert failed["kind"] == "AcceleratorError"
    assert "--shm-size" in failed["reason"]


def noting(main):
    """Every photo that is loaded to be trained on, in the order of steps: without loader processes nothing is loaded ahead."""

    def noted(job_file):
        load = data._Photos.__getitem__

        def one(self, item):
            if self._transform is not None:
                with job_file.with_name("trained").open("a") as file:
                    file.write(f"{self._photos[item[1]].path}\n")
            return load(self, item)

        data._Photos.__getitem__ = one  # in a forked process of its own
        return main(job_file)

    return noted


def test_two_ranks_resumed_on_one_train_every_photo_once_at_the_same_batch_size(job):
    again = job(checkpoint_every_seconds=EVERY_STEP)
    killed_pair(again, noting)
    noted = (again.paths.scratch_dir / "trained").read_text().split()
    assert len(noted) == 8  # the first step of the second phase, on both ranks
    train(again, world_size=1, main=noting(worker.main))
    progress = newest(again)["progress"]
    assert (progress["step"], progress["epoch"]) == (STEPS, 2)
    noted = (again.paths.scratch_dir / "trained").read_text().split()
    photos = sorted(str(photo.path) for photo in DatasetIndex.read(again.paths.index_file).splits["train"])
    assert sorted(noted[:22]) == photos, "the epoch that two ranks began and one ended"
    assert sorted(noted[22:]) == photos


def test_one_validation_photo_and_two_ranks_do_not_hang(job, tmp_path_factory):
    few = make_index(tmp_path_factory.mktemp("few"), train=9, valid=1, test=0)
    assert events(train(job(index=few, batch_size=8), world_size=2), "result")


@pytest.mark.slow
def test_it_is_a_program_whose_errors_reach_the_launcher(job, tmp_path):
    broken = job(learning_rate=1e30, clip_grad_norm=0, optimizer="sgd", head_epochs=0)
    report = tmp_path / "error.json"
    environment = {**os.environ, "KENNEL_DEVICE": "cpu", "TORCHELASTIC_ERROR_FILE": str(report), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "containers.train.worker", str(broken.paths.job_file)]
    done = subprocess.run(command, cwd=Path(worker.__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(report.read_text())["kennel"]
    assert told["kind"] == "NonFiniteLoss"
    assert "learning_rate" in told["message"]
