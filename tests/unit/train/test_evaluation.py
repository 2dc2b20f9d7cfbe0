import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from containers.train import calibration
from containers.train.agreement import StopRequested
from containers.train.distributed import Group
from containers.train.evaluation import evaluate, rounds
from tests.support.training import in_ranks

CLASSES, BATCH = 7, 4


def problem(count):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, CLASSES, generator=generator, dtype=torch.float64) * 2
    return logits, torch.randint(0, CLASSES, (count,), generator=generator)


def scored(count, group, **options):
    logits, labels = problem(count)
    mine = torch.tensor(range(group.rank, count, group.world_size), dtype=torch.int64)
    batches = iter([(logits[part], labels[part]) for part in mine.split(BATCH)]) if len(mine) else iter(())
    return evaluate(group, lambda x: x, batches, labels, CLASSES, BATCH, check=lambda: None, **options)


@pytest.mark.parametrize("count", [1, 2, 11, 13, 17])
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_world_size_gives_exactly_the_numbers_of_one_process(count, world_size):
    alone = scored(count, Group.alone())
    for loss, accuracy, confusion in in_ranks(world_size, lambda group: _numbers(scored(count, group))):
        assert (loss, accuracy) == (alone.loss, alone.accuracy)
        assert confusion == alone.confusion.tolist()


def _numbers(scores):
    return scores.loss, scores.accuracy, scores.confusion.tolist()


@pytest.mark.parametrize("count", [1, 13, 200])
def test_the_numbers_are_those_of_scikit_learn_and_torch(count):
    logits, labels = problem(count)
    scores = scored(count, Group.alone(), with_logits=True)
    predictions, probabilities = logits.argmax(1), logits.softmax(1).numpy()
    names = list(range(CLASSES))
    assert scores.loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-12)
    assert scores.accuracy == pytest.approx(sklearn.accuracy_score(labels, predictions), abs=1e-12)
    top5 = sklearn.top_k_accuracy_score(labels, probabilities, k=5, labels=names)
    assert scores.top5_accuracy == pytest.approx(top5, abs=1e-12)
    assert (scores.confusion.numpy() == sklearn.confusion_matrix(labels, predictions, labels=names)).all()
    expected = sklearn.precision_recall_fscore_support(labels, predictions, labels=names, zero_division=0)
    found = scores.per_class()
    for ours, theirs in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        assert np.allclose(ours.numpy(), theirs, atol=1e-12)
    assert torch.equal(scores.logits, logits)


def test_a_stop_is_noticed_in_the_middle():
    seen = []

    def check():
        seen.append(1)
        if len(seen) == 2:
            raise StopRequested

    logits, labels = problem(11)
    batches = iter([(logits[part], labels[part]) for part in torch.arange(11).split(BATCH)])
    with pytest.raises(StopRequested):
        evaluate(Group.alone(), lambda x: x, batches, labels, CLASSES, BATCH, check=check)


def test_a_photo_that_was_left_out_is_an_error_and_not_another_mean():
    logits, labels = problem(11)
    with pytest.raises(AssertionError, match="7 photos were not evaluated exactly once"):
        evaluate(Group.alone(), lambda x: x, iter([(logits[:4], labels[:4])]), labels, CLASSES, BATCH, check=lambda: None)


@pytest.mark.parametrize(("count", "world", "expected"), [(1, 2, 1), (8, 2, 1), (9, 2, 2), (0, 1, 0)])
def test_rounds(count, world, expected):
    assert rounds(count, BATCH, world) == expected


def test_calibration_error_is_torchmetrics():
    logits, labels = problem(500)
    probabilities = logits.softmax(1)
    expected = MulticlassCalibrationError(num_classes=CLASSES, n_bins=15, norm="l1")(probabilities, labels)
    assert calibration.reliability(probabilities, labels).error == pytest.approx(float(expected), abs=1e-6)


def test_the_temperature_is_found_where_probabilities_are_too_sharp():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, CLASSES, generator=generator, dtype=torch.float64) * 1.5
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    fitted = calibration.fit_temperature(logits * 3, labels)
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    before = calibration.reliability((logits * 3).softmax(1), labels).error
    assert calibration.reliability((logits * 3 / fitted.temperature).softmax(1), labels).error < before / 4


def test_few_photos_leave_the_temperature_at_1_and_say_why():
    logits, labels = problem(calibration.MIN_PHOTOS - 1)
    fitted = calibration.fit_temperature(logits, labels)
    assert fitted.temperature == 1
    assert "199 validation photos, at least 200" in fitted.note


@pytest.mark.parametrize("sharpness", [0.01, 5, 500])
def test_a_model_that_is_always_right_keeps_a_sensible_temperature(sharpness):
    labels = torch.arange(CLASSES).repeat(60)
    fitted = calibration.fit_temperature(F.one_hot(labels).double() * sharpness, labels)
    assert 0.05 <= fitted.temperature <= 1
