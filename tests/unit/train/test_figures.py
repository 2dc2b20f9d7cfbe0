"""Figures say what they were given, whatever it is called."""

from xml.etree import ElementTree

import numpy as np

from containers.train import figures


def texts(svg: str) -> set[str]:
    return {"".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


def test_class_names_of_every_script_and_with_signs_of_mathematics_are_shown_as_they_are():
    names = ["柴犬", "собака", "$5 bill", "$\\frac{$", "$x^2$", "a_b & <c>"]
    assert set(names) <= texts(figures.confusion(np.eye(len(names), dtype=int), names))


def test_equal_runs_draw_equal_files():
    matrix = np.arange(4).reshape(2, 2)
    assert figures.confusion(matrix, ["a", "b"]) == figures.confusion(matrix, ["a", "b"])
