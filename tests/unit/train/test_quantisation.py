import numpy as np
import pytest

from containers.core.preprocessing import PreprocessSpec
from containers.train import quantisation
from containers.train.quantisation import Labelled, Refused


def answers(photos: int, *, wrong: int = 0, margin: float = 0.8) -> np.ndarray:
    """Two classes, every photo is of class 0; the first `wrong` are answered with class 1."""
    top, low = (1 + margin) / 2, (1 - margin) / 2
    probabilities = np.tile(np.float32([top, low]), (photos, 1))
    probabilities[:wrong] = [low, top]
    return probabilities


@pytest.mark.parametrize(
    ("photos", "wrong", "margin", "passes"),
    [
        (1000, 5, 0.8, True),
        (1000, 6, 0.8, False),  # 0.6 points
        (1000, 6, 0.05, False),  # many photos: unsure answers count like others
        (999, 1, 0.8, False),  # few photos: one sure answer changed
        (999, 4, 0.05, True),
        (999, 5, 0.05, False),
        (50, 1, 0.05, True),  # half a point of 50 photos is none: one may go
        (50, 2, 0.05, False),
        (50, 0, 0.8, True),
    ],
)
def test_the_gate(photos, wrong, margin, passes):
    expected, labels = answers(photos, margin=margin), np.zeros(photos, int)
    given = answers(photos, wrong=wrong, margin=margin)
    assert (quantisation.excess(expected, given, labels) == 0) is passes
    if passes:
        assert "accuracy went from 1.0000" in quantisation.judge(expected, given, labels)
    else:
        with pytest.raises(Refused, match=f"{wrong} photos were lost net"):
            quantisation.judge(expected, given, labels)


def test_sure_answers_may_not_change_even_where_accuracy_rises():
    expected = answers(40, wrong=40)
    with pytest.raises(Refused, match="40 answers changed"):
        quantisation.judge(expected, answers(40), np.zeros(40, int))


def test_calibration_photos_come_from_the_whole_list():
    assert quantisation.evenly(range(10), 4) == [0, 2, 5, 7]
    assert quantisation.evenly(range(3), 4) == [0, 1, 2]


def test_too_few_calibration_photos_are_refused_before_any_work(tmp_path):
    seen = Labelled(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, int))
    with pytest.raises(Refused, match="at least 300 training photos, there are 299"):
        quantisation.quantise(None, PreprocessSpec(), [tmp_path] * 299, seen, np.zeros((0, 2)), transformer=False)
