"""Whole runs in real processes that are asked to stop, wherever the request finds them: one agreed step, nothing lost."""

import json
import os
import shutil
import signal
import socket
import time

import pytest

from containers.core import artifact, manifest
from containers.train import early_stopping, export, features, pretrained, recorder, run, worker
from containers.train.agreement import StopRequested
from tests.support.server import until
from tests.support.stopwatch import Stopwatch
from tests.support.training import Workers, events, newest, train

INTERRUPTED = 75


@pytest.mark.parametrize("when", ["features", "epoch"])
def test_sigterm_to_every_rank_leaves_at_one_agreed_step_with_checkpoint_and_model(job, index, when):
    endless = job(epochs=10_000, head_epochs=1, num_workers=2)
    reached, asked = endless.paths.scratch_dir / "reached", endless.paths.scratch_dir / "asked"

    def slowly(job_file):
        compute = features.FeatureCache._compute

        def one(*arguments):
            reached.touch()
            until(asked.exists, "every rank was asked to stop")
            return compute(*arguments)

        features.FeatureCache._compute, features.CHUNK = one, 1  # in a forked process of its own: 31 photos
        return worker.main(job_file)

    workers = Workers(endless, 2, slowly if when == "features" else worker.main)
    if when == "features":
        until(reached.exists, "features being computed")
    else:
        workers.until("epoch", count=2)
    watch = Stopwatch()
    for process in workers.processes:
        os.killpg(process.pid, signal.SIGTERM)  # as torch's agent does: the loaders get it too
    asked.touch()
    assert workers.wait() == [INTERRUPTED, INTERRUPTED], workers.text(0) + workers.text(1)
    assert watch.seconds < 60
    stops = [next(line["reason"] for line in workers.lines(rank) if line["event"] == "interrupted") for rank in (0, 1)]
    assert stops[0] == stops[1]
    if when == "features":
        assert not events(workers, "features")
        assert "before the first step" in stops[0]
    else:
        assert f"step {newest(endless)['progress']['step']} " in stops[0]
    assert "killed by signal" not in workers.text(0) + workers.text(1)
    if when == "epoch":
        artifact.load(endless.paths.model_dir).build()


@pytest.mark.parametrize("during", ["features", "evaluation"])
def test_a_stop_in_the_middle_of_work_that_trains_nothing_is_heard_there(job, during):
    """One of two ranks gets the signal while it computes features, or while it evaluates."""
    endless = job(epochs=10_000, head_epochs=1 if during == "features" else 0)
    reached = endless.paths.scratch_dir / "reached"

    def main(job_file):
        features.CHUNK, run._EVALUATION_BATCH = 2, 1  # in a forked process of its own
        owner, name = (features.FeatureCache, "_compute") if during == "features" else (run, "evaluation_batches")
        work = getattr(owner, name)

        def interrupted(*arguments):
            if os.environ["RANK"] == "1" and not reached.exists():
                reached.touch()
                os.kill(os.getpid(), signal.SIGTERM)
            return work(*arguments)

        setattr(owner, name, interrupted)
        return worker.main(job_file)

    workers = train(endless, world_size=2, expect=INTERRUPTED, main=main)
    assert reached.exists()
    assert not events(workers, "epoch")
    assert not events(workers, "features")
    kinds = {json.loads(path.read_text())["kennel"]["kind"] for path in workers.errors}
    assert kinds == {"NotBegun" if during == "features" else "Interrupted"}  # exit code 0 is for what is committed
    if during == "evaluation":
        assert newest(endless)["progress"]["step"] == 3  # the epoch that was being evaluated is not lost


def test_a_stop_that_reaches_one_rank_only_stops_both(job):
    endless = job(epochs=10_000)
    workers = Workers(endless, world_size=2)
    workers.until("epoch")
    workers.signal(signal.SIGTERM, rank=1)
    assert workers.wait() == [INTERRUPTED, INTERRUPTED]


def test_the_stop_file_stops_as_a_signal_does_and_a_second_signal_changes_nothing(job):
    endless = job(epochs=10_000)
    workers = Workers(endless)
    workers.until("epoch")
    endless.paths.stop_file.touch()
    for _ in range(20):
        workers.signal(signal.SIGTERM)
        time.sleep(0.005)
    assert workers.wait() == [INTERRUPTED]
    assert newest(endless)["progress"]["step"] > 0


def test_a_stop_in_the_last_evaluation_leaves_the_model_too(job):
    ended = job()

    def stopped_after_the_last_epoch(job_file):
        write = recorder.Recorder.epoch

        def epoch(self, row):
            write(self, row)
            if row["epoch"] == 4:
                ended.paths.stop_file.touch()

        recorder.Recorder.epoch = epoch  # in a forked process of its own
        return worker.main(job_file)

    workers = train(ended, world_size=2, expect=INTERRUPTED, main=stopped_after_the_last_epoch)
    assert "after the last epoch" in events(workers, "interrupted")[0]["reason"]
    artifact.load(ended.paths.model_dir).build()


def test_a_stop_while_a_finished_run_is_measured_again_leaves_the_model_it_had(job):
    """It has test numbers, a temperature and engines, which the best model so far of a run that is stopped has not."""
    ended = job(engines="fp32")
    train(ended)
    before = {path: path.read_bytes() for path in ended.paths.model_dir.rglob("*") if path.is_file()}
    assert any("openvino" in path.name for path in before)

    def stopped(job_file):
        ended.paths.stop_file.touch()
        return worker.main(job_file)

    workers = train(ended, expect=INTERRUPTED, main=stopped)
    assert "after the last epoch" in events(workers, "interrupted")[0]["reason"]
    assert {path: path.read_bytes() for path in ended.paths.model_dir.rglob("*") if path.is_file()} == before


def test_a_new_best_of_a_run_that_goes_on_leaves_nothing_that_describes_the_model_before(job):
    """The report, the model card and the engines of a finished run are of other weights than those a later stop leaves."""

    def as_if_it_had_learned_little(job_file):
        update = early_stopping.EarlyStopping.update
        early_stopping.EarlyStopping.update = lambda self, value, epoch: update(self, value + 100, epoch)  # in its own process
        return worker.main(job_file)

    ended = job(head_epochs=0, epochs=1, engines="fp32")
    train(ended, main=as_if_it_had_learned_little)
    reports = [ended.paths.model_dir / "report", ended.paths.output_dir / "report"]
    assert all((report / "MODEL_CARD.md").exists() for report in reports)
    assert manifest.read(ended.paths.model_dir).engines

    workers = Workers(job(head_epochs=0, epochs=10_000, engines="fp32"))
    workers.until("epoch")
    workers.signal(signal.SIGTERM)
    assert workers.wait() == [INTERRUPTED], workers.text()
    assert manifest.read(ended.paths.model_dir).metrics["best_epoch"] > 1
    left = {str(path.relative_to(ended.paths.model_dir)) for path in ended.paths.model_dir.rglob("*")}
    assert left == {manifest.MANIFEST_FILE, manifest.WEIGHTS_FILE, manifest.GOLDEN_FILE}
    assert not reports[1].exists()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop_while_engines_are_written_is_heard_by_every_rank_and_costs_only_the_engines(job, world_size):
    """On rank 0, inside what turns any error into a note; the others wait for it, and must not call it lost."""
    ended = job(engines="fp32")

    def asked_while_it_converts(job_file):
        def convert(_model):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)

        export.convert = convert  # in a forked process of its own
        return worker.main(job_file)

    watch = Stopwatch()
    workers = train(ended, world_size=world_size, expect=INTERRUPTED, main=asked_while_it_converts)
    assert watch.seconds < 300
    told = [json.loads(path.read_text())["kennel"] for path in workers.errors]
    assert [each["kind"] for each in told] == ["Interrupted"] * world_size
    assert all("start the job again to complete the results" in each["message"] for each in told)
    assert "was not written" not in workers.text()
    assert manifest.read(ended.paths.model_dir).engines == ()


def test_a_stop_while_the_features_of_a_resumed_run_are_computed_keeps_its_checkpoint(job):
    endless = job(head_epochs=10_000)
    workers = Workers(endless)
    workers.until("epoch")
    workers.signal(signal.SIGTERM)
    assert workers.wait() == [INTERRUPTED]
    step = newest(endless)["progress"]["step"]

    def asked_at_once(job_file):
        compute = features.FeatureCache._compute

        def interrupted(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            return compute(*arguments)

        features.FeatureCache._compute = interrupted  # in a forked process of its own
        features.CHUNK = 2
        shutil.rmtree(endless.paths.scratch_dir / "features")
        return worker.main(job_file)

    workers = train(endless, expect=INTERRUPTED, main=asked_at_once)
    told = json.loads(workers.errors[0].read_text())["kennel"]
    assert (told["kind"], "the last checkpoint stands" in told["message"]) == ("Interrupted", True)
    assert newest(endless)["progress"]["step"] == step


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop_while_weights_are_downloaded_is_heard_there(job, world_size):
    """From a server that accepts and says nothing more; the launcher would wait 90 s and kill."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        def main(job_file):
            get = pretrained.get_weight

            class Elsewhere:
                def __init__(self, name):
                    self.url = f"http://127.0.0.1:{port}/{get(name).url.rpartition('/')[2]}"

            pretrained.get_weight = Elsewhere  # in a forked process of its own
            pretrained.DOWNLOAD_TIMEOUT_SECONDS = 300.0
            os.environ.pop(pretrained.ENVIRONMENT, None)
            os.environ["TORCH_HOME"] = str(job_file.parent / "torch")
            return worker.main(job_file)

        waiting = job(pretrained="auto")
        workers = Workers(waiting, world_size, main)
        silent.settimeout(120)
        with silent.accept()[0]:
            watch = Stopwatch()
            for rank in range(world_size):
                workers.signal(signal.SIGTERM, rank)
            assert workers.wait() == [INTERRUPTED] * world_size, workers.text()
    assert watch.seconds < 60
    assert {json.loads(path.read_text())["kennel"]["kind"] for path in workers.errors} == {"NotBegun"}


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop_while_a_file_of_weights_is_read_is_no_error_of_the_file(job, tmp_path, world_size):
    """Native code makes an error of its own of what comes out of a signal handler, as safetensors does."""
    waiting = job(pretrained="auto")
    (tmp_path / f"{waiting.config.architecture}.safetensors").touch()

    def main(job_file):
        def read(_path):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(600)
            except StopRequested:
                raise RuntimeError("could not determine the shape of object type 'torch.storage.UntypedStorage'") from None

        pretrained.load_file = read  # in a forked process of its own
        os.environ[pretrained.ENVIRONMENT] = str(tmp_path)
        return worker.main(job_file)

    workers = train(waiting, world_size=world_size, expect=INTERRUPTED, main=main)
    assert {json.loads(path.read_text())["kennel"]["kind"] for path in workers.errors} == {"NotBegun"}
