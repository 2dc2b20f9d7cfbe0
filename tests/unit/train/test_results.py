"""What a run leaves behind, by runs in real processes."""

import json

import torch

from containers.core import artifact, manifest, preprocessing
from containers.train import recorder, worker
from tests.support import full_disk
from tests.support.training import events, newest, same, train
from tests.unit.train.killed import weights


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
