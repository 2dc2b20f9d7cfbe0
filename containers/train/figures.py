"""The report's figures, as SVG text for an HTML page. Matplotlib, without a display."""

import io
import itertools
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from containers.train.calibration import Reliability
from containers.train.progress import Row

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "kennel"  # equal runs draw equal files
mpl.rcParams["svg.fonttype"] = "none"  # text stays text: whoever looks has letters that matplotlib's own font lacks
_MOST_NAMES = 40


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it measures text with its own font all the same
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _numbers(history: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in history]


def curves(history: Sequence[Row], best_epoch: int) -> str:
    """Loss, accuracy and learning rate over the epochs of both phases; the best epoch is marked."""
    epochs = _numbers(history, "epoch")
    figure = Figure(figsize=(11, 3))
    axes: Sequence[Axes] = figure.subplots(1, 3)
    for axis, what in zip(axes[:2], ("loss", "accuracy"), strict=True):
        axis.plot(epochs, _numbers(history, f"train_{what}"), label="training", color="tab:gray")
        axis.plot(epochs, _numbers(history, f"valid_{what}"), label="validation", color="tab:blue")
        axis.set_title(what)
        axis.legend(frameon=False)
    axes[2].plot(epochs, _numbers(history, "learning_rate"), color="tab:green")
    axes[2].set_title("learning rate of the head")
    pairs = itertools.pairwise(history)
    changes = [float(row["epoch"]) - 0.5 for before, row in pairs if row["phase"] != before["phase"]]
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.axvline(best_epoch, color="tab:orange", linestyle=":")
        for change in changes:
            axis.axvline(change, color="lightgray", zorder=0)
    return _svg(figure)


def confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Rows are labels, columns predictions; the colour is the share of the row."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.3 * len(names))
    figure = Figure(figsize=(side, side))
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label")
    if len(names) <= _MOST_NAMES:
        axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)  # a name may have dollar signs
        axis.set_yticks(range(len(names)), names, parse_math=False)
    if len(names) <= 15:
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour)
    return _svg(figure)


def reliability(before: Reliability, after: Reliability) -> str:
    """Accuracy over confidence, before and after the temperature; on the diagonal the probabilities mean what they say."""
    figure = Figure(figsize=(4.5, 4))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="lightgray")
    for which, label, style in ((before, "as trained", "o--"), (after, "as served", "o-")):
        used = [index for index, share in enumerate(which.shares) if share > 0]
        xs, ys = [which.confidences[index] for index in used], [which.accuracies[index] for index in used]
        axis.plot(xs, ys, style, label=f"{label}: error {which.error:.3f}", markersize=4)
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.legend(frameon=False)
    return _svg(figure)
