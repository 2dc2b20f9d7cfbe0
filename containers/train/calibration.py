"""Do the probabilities mean what they say? Expected calibration error, and one temperature that improves it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from containers.core.manifest import Calibration

MIN_PHOTOS = 200
_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Per confidence bin: share of photos, mean confidence, accuracy. `error` is the expected calibration error."""

    shares: list[float]
    confidences: list[float]
    accuracies: list[float]
    error: float


def reliability(probabilities: Tensor, labels: Tensor, bins: int = _BINS) -> Reliability:
    """Equal-width bins (Guo et al. 2017, On Calibration of Modern Neural Networks); `probabilities` is (N, classes)."""
    confidence, prediction = probabilities.double().max(1)
    hit = (prediction == labels).double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    safe = count.clamp(min=1)
    mean_confidence = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, confidence) / safe
    accuracy = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, hit) / safe
    shares = count / len(labels)
    error = float((shares * (mean_confidence - accuracy).abs()).sum())
    return Reliability(shares.tolist(), mean_confidence.tolist(), accuracy.tolist(), error)


def fit_temperature(logits: Tensor, labels: Tensor) -> Calibration:
    """The temperature that minimises the validation loss of softmax(logits / T).

    Below MIN_PHOTOS photos it stays 1 and the note says why: the estimate would be noise.
    """
    count = len(labels)
    if count < MIN_PHOTOS:
        return Calibration(note=f"not fitted: {count} validation photos, at least {MIN_PHOTOS} are needed")
    logits, log_temperature = logits.double(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    temperature = float(log_temperature.detach().exp())
    if not 0.05 <= temperature <= 20:
        return Calibration(note=f"not used: the fit on {count} validation photos left the sensible range ({temperature:.3g})")
    return Calibration(temperature=temperature, note=f"fitted on {count} validation photos")
