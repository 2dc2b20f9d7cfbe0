import re
import shutil
from html.parser import HTMLParser

import pytest

from containers.core import artifact, manifest
from containers.train import costs, worker
from tests.support.training import events, make_index, make_job, train


@pytest.fixture(scope="module")
def reported(tmp_path_factory, index):
    job = make_job(tmp_path_factory.mktemp("reported"), index, epochs=1)
    train(job)
    return job


def test_the_page_stands_alone_and_holds_what_was_promised(reported):
    page = (reported.paths.model_dir / "report" / "index.html").read_text(encoding="utf-8")
    assert page == (reported.paths.output_dir / "report" / "index.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    for title in ("Numbers", "Training", "Confusion matrix (test photos)", "Per class", "Reliability", "Most confidently wrong",
                  "Photos", "Where the time went", "What it would cost", "Configuration"):  # fmt: skip
        assert f"<h2>{title}" in page
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "data:image/jpeg;base64," in page
    assert "9 validation photos, at least 200 are needed" in page
    assert "not measured" in page
    assert str(reported.paths.model_dir.parent) not in page


def test_the_card_says_what_the_model_is_and_is_not(reported):
    card = (reported.paths.model_dir / "report" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in ("class0, class1", "train 22, valid 9, test 7", "test_accuracy", "## Limits", "Starting weights: none"):
        assert part in card


def test_tensorboard_finds_its_files_beside_the_output(reported):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reported.paths.output_dir.parent / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "validation/loss", "validation/accuracy", "test/accuracy", "train/learning_rate"} <= set(scalars)
    assert [event.step for event in events.Scalars("validation/loss")] == [1, 2, 3]


def test_a_report_and_engines_that_cannot_be_made_cost_neither_the_model_nor_the_exit_code(tmp_path):
    """The photos are gone once the model is written: a volume that was taken away, a clean-up that came early."""
    job = make_job(tmp_path / "job", make_index(tmp_path / "photos"), epochs=1, head_epochs=0, engines="fp32")

    def main(job_file):
        save = artifact.save

        def saved(*arguments):
            written = save(*arguments)
            shutil.rmtree(tmp_path / "photos")
            return written

        artifact.save = saved  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job, main=main)
    assert events(workers, "report not written")[0]["reason"].startswith("DataError: ")
    assert events(workers, "engines not written")
    assert not manifest.read(job.paths.model_dir).engines


def test_an_epoch_that_trained_nothing_says_nothing_about_costs():
    """A run resumed at the end of an epoch trains none of its photos."""
    history = [{"phase": "all", "images_per_second": rate} for rate in (0.0, 0.0, 100.0)]
    assert costs.estimate(360_000, "Tesla T4", history).rows[0].hours == 1.0
    assert "assumed" in costs.estimate(360_000, "Tesla T4", history[:2]).basis


def test_a_cost_is_labelled_assumed_unless_the_run_was_on_that_gpu():
    history = [{"phase": "head", "images_per_second": 9.0}, {"phase": "all", "images_per_second": 200.0}]
    assumed, measured = costs.estimate(720_000, "cpu", history), costs.estimate(720_000, "Tesla T4", history)
    assert "assumed for ResNet-50" in assumed.basis
    assert "measured in this run on 1 T4" in measured.basis
    assert [row.hours for row in measured.rows] == [1.0, 1.0]
    assert measured.rows[0].on_demand > measured.rows[0].spot > 0
    own = costs.estimate(720_000, "cpu", history, expected=100.0)
    assert "100 photos/s (assumed: your own t4_images_per_second, not measured)" in own.basis
    assert own.rows[0].hours == 2.0
    mixed = costs.estimate(720_000, "several kinds", history, ranks=2)
    assert "assumed for ResNet-50" in mixed.basis, "T4s are not measured by what others did with them"
    fewer = [{"phase": "all", "images_per_second": 200.0 * ranks, "world_size": ranks} for ranks in (2, 1)]
    per_gpu = costs.estimate(720_000, "Tesla T4", fewer, ranks=1)
    assert (per_gpu.rows[0].hours, "measured in this run on 2 and 1 T4" in per_gpu.basis) == (1.0, True)
    both = costs.estimate(720_000, "Tesla T4", history, ranks=2, expected=7.0)
    assert (both.rows[0].hours, "measured in this run on 2 T4" in both.basis) == (2.0, True)
