"""Whole runs in real processes: killed, stopped, joined and restarted, they end bitwise like undisturbed ones."""

import gc
import json
import logging
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
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from containers.core import artifact, manifest, preprocessing
from containers.train import data, features, optimisation, recorder, results, trainer, worker
from containers.train.errors import TrainingError
from containers.train.index import DatasetIndex
from tests.support import full_disk
from tests.support.training import Workers, events, learned, make_index, make_job, newest, same, train

EVERY_STEP = 1e-9  # seconds: a checkpoint at every step
STEPS = 12  # of the tiny job: two phases of two epochs of three steps
INTERRUPTED = 75


def weights(job):
    return load_file(job.paths.model_dir / manifest.WEIGHTS_FILE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, index):
    """Run once, compared with often."""
    torch.set_num_threads(1)
    job = make_job(tmp_path_factory.mktemp("undisturbed"), index)
    train(job)
    return job


@pytest.fixture(scope="module")
def undisturbed_pair(tmp_path_factory, index):
    """The same job on two ranks; each leaves the weights it has at the end in `scratch_dir`."""
    torch.set_num_threads(1)
    job = make_job(tmp_path_factory.mktemp("pair"), index)

    def main(job_file):
        write = results.write_model

        def told(run, *arguments):
            written = write(run, *arguments)
            torch.save(run.model.state_dict(), job_file.with_name(f"end-{run.group.rank}.pt"))
            return written

        results.write_model = told  # in a forked process of its own
        return worker.main(job_file)

    return job, train(job, world_size=2, main=main)


class _Dying(logging.Handler):
    """Kills its process, and the loaders of it, right after a checkpoint."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def emit(self, record):
        if record.getMessage() == "checkpoint" and record.step >= self._step:
            os.killpg(0, signal.SIGKILL)


def killed_after_checkpoint(step):
    def main(job_file):
        log = logging.getLogger("containers.train.checkpoint")
        log.setLevel(logging.DEBUG)
        log.addHandler(_Dying(step))
        return worker.main(job_file)

    return main


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


def test_the_model_written_is_the_best_checkpoint_on_every_rank(undisturbed_pair):
    job, _ = undisturbed_pair
    state, written = newest(job), weights(job)
    best_file = state["best_file"] or json.loads((job.paths.checkpoint_dir / "latest.json").read_text())["file"]
    best = torch.load(job.paths.checkpoint_dir / best_file, weights_only=True)
    if best["progress"]["phase"] == 0:
        best_model = torch.load(job.paths.checkpoint_dir / best["base_file"], weights_only=True)
        best_model |= {f"classifier.3.{name}": value for name, value in best["model"].items()}
    else:
        best_model = best["model"]
    assert same({name: value.contiguous() for name, value in best_model.items()}, written)
    for rank in (0, 1):
        held = torch.load(job.paths.scratch_dir / f"end-{rank}.pt", weights_only=True)
        assert same({name: value.contiguous() for name, value in held.items()}, written), f"rank {rank}"


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


def test_the_artifact_answers_its_golden_photo_and_has_nothing_of_this_machine(undisturbed):
    model = artifact.load(undisturbed.paths.model_dir)
    facts = model.manifest
    pixels = preprocessing.prepare(
        preprocessing.decode((model.model_dir / manifest.GOLDEN_FILE).read_bytes(), facts.preprocessing), facts.preprocessing
    )
    batch = artifact.normalise(torch.from_numpy(pixels.copy())[None], facts.preprocessing.mean, facts.preprocessing.std)
    with torch.inference_mode():
        found = (model.build()(batch) / facts.calibration.temperature).softmax(1)[0]
    assert torch.allclose(found, torch.tensor(facts.golden.probabilities), atol=facts.golden.tolerance)
    assert "9 validation photos" in facts.calibration.note
    assert str(undisturbed.paths.model_dir.parent) not in facts.model_dump_json()
    assert facts.provenance.dataset["photos"] == {"train": 22, "valid": 9, "test": 7}
    assert {"valid_loss", "valid_accuracy", "test_accuracy", "test_macro_f1", "calibration_error"} <= set(facts.metrics)


def test_only_rank_0_tells_metrics(undisturbed_pair):
    _, workers = undisturbed_pair
    assert len([line for line in workers.lines(0) if line["event"] == "epoch"]) == 4
    assert not [line for line in workers.lines(1) if line["event"] in ("epoch", "result")]


def test_a_disk_without_room_for_the_model_says_so_and_costs_nothing_that_was_learned(job, undisturbed):
    """The last checkpoint was committed; from then on the kernel refuses larger files. The next start has room."""
    ended = job()

    def full_after_the_last_epoch(job_file):
        write = recorder.Recorder.epoch

        def epoch(self, row):
            write(self, row)
            if row["epoch"] == 4:
                full_disk.no_file_larger_than(1 << 16)

        recorder.Recorder.epoch = epoch  # in a forked process of its own
        return worker.main(job_file)

    workers = train(ended, expect=1, main=full_after_the_last_epoch)
    assert f"TrainingError: the model cannot be written to {ended.paths.model_dir}" in workers.text()
    assert "make room and start the job again" in workers.text()
    assert not (ended.paths.model_dir / manifest.MANIFEST_FILE).exists()
    again = train(ended)
    assert not events(again, "epoch")
    assert same(weights(ended), weights(undisturbed))


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


def test_ranks_of_which_one_lacks_memory_for_features_all_take_photos(job):
    def main(job_file):
        if os.environ["RANK"] == "1":
            features.can_cache = lambda *_: False  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job(), world_size=2, main=main)
    assert not events(workers, "features")


def without_room_for_features(main=worker.main):
    def on_photos(job_file):
        features.can_cache = lambda *_: False  # in a forked process of its own
        return main(job_file)

    return on_photos


def test_a_head_that_was_trained_on_photos_goes_on_so_though_there_is_memory_now(job):
    settings = {"head_epochs": 2, "epochs": 0}
    undisturbed, again = job("undisturbed", **settings), job(**settings, checkpoint_every_seconds=EVERY_STEP)
    train(undisturbed, main=without_room_for_features())
    train(again, main=without_room_for_features(killed_after_checkpoint(2)), expect=-9)
    assert not events(train(again), "features")
    assert same(learned(again), learned(undisturbed))


def test_a_head_that_cannot_go_on_with_features_says_so_and_takes_photos(job):
    again = job(head_epochs=2, epochs=0, checkpoint_every_seconds=EVERY_STEP)
    train(again, main=killed_after_checkpoint(2), expect=-9)
    resumed = train(again, main=without_room_for_features())
    assert not events(resumed, "features")
    assert [line["level"] for line in resumed.lines() if "no memory for the features" in line["event"]] == ["WARNING"]
    assert newest(again)["progress"]["epoch"] == 2


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
