"""Exact numbers about a model: every photo counted once, whatever the world size, in float64.

Rank r takes photos r, r + world, …; nothing is padded. Each rank fills its own rows of one table, the rows are summed over
ranks (the others hold zeros), and every metric is computed from the whole table, so all ranks see identical numbers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from containers.train.distributed import Group

_SEEN, _LOSS, _PREDICTION, _RANK_OF_LABEL, _CONFIDENCE, _LOGITS = range(6)


@dataclass(frozen=True)
class ClassScores:
    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


@dataclass(frozen=True)
class Scores:
    """All tensors are on the CPU, one entry per photo in the split's order."""

    labels: Tensor
    losses: Tensor
    predictions: Tensor
    ranks: Tensor
    """How many classes scored above the label."""
    confidences: Tensor
    logits: Tensor
    """float64 (N, classes); (N, 0) where they were not asked for."""
    num_classes: int

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        return float((self.predictions == self.labels).double().mean())

    @property
    def top5_accuracy(self) -> float:
        return float((self.ranks < 5).double().mean())

    @property
    def confusion(self) -> Tensor:
        """int64 (classes, classes): row is the label, column the prediction."""
        cells = self.labels * self.num_classes + self.predictions
        return torch.bincount(cells, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)

    def per_class(self) -> ClassScores:
        """0 where a class was never predicted (precision) or never present (recall), as scikit-learn's zero_division=0."""
        confusion = self.confusion.double()
        hits, predicted, present = confusion.diag(), confusion.sum(0), confusion.sum(1)
        precision, recall = hits / predicted.clamp(min=1), hits / present.clamp(min=1)
        f1 = 2 * hits / (predicted + present).clamp(min=1)
        return ClassScores(precision, recall, f1, present.long())


def rounds(count: int, batch_size: int, world_size: int) -> int:
    """How many batches the busiest rank has."""
    return math.ceil(math.ceil(count / world_size) / batch_size)


def evaluate(
    group: Group,
    forward: Callable[[Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor]],
    labels: Tensor,
    num_classes: int,
    batch_size: int,
    *,
    check: Callable[[], None],
    with_logits: bool = False,
) -> Scores:
    """`forward` maps a batch of inputs to logits (N, classes); `batches` are this rank's, in order of their photos.

    `labels` are the whole split's. `check` runs once per round on every rank, also on one that has no batch left.
    """
    count = len(labels)
    mine = torch.tensor(range(group.rank, count, group.world_size), dtype=torch.int64)
    table = torch.zeros(count, _LOGITS + (num_classes if with_logits else 0), dtype=torch.float64)
    done = 0
    for _ in range(rounds(count, batch_size, group.world_size)):
        check()
        batch = next(batches, None)
        if batch is None:
            continue
        inputs, targets = batch
        logits = forward(inputs).double().cpu()
        table[mine[done : done + len(targets)]] = _rows(logits, targets, with_logits)
        done += len(targets)
    table = group.sum(table)
    if not bool((table[:, _SEEN] == 1).all()):
        raise AssertionError(f"{int((table[:, _SEEN] != 1).sum())} photos were not evaluated exactly once")
    return Scores(
        labels,
        table[:, _LOSS],
        table[:, _PREDICTION].long(),
        table[:, _RANK_OF_LABEL].long(),
        table[:, _CONFIDENCE],
        table[:, _LOGITS:],
        num_classes,
    )


def _rows(logits: Tensor, labels: Tensor, with_logits: bool) -> Tensor:
    probabilities = logits.softmax(1)
    confidence, prediction = probabilities.max(1)
    above = (logits > logits.gather(1, labels[:, None])).sum(1)
    columns = [
        torch.ones(len(labels), dtype=torch.float64),
        F.cross_entropy(logits, labels, reduction="none"),
        prediction.double(),
        above.double(),
        confidence,
    ]
    rows = torch.stack(columns, 1)
    return torch.cat([rows, logits], 1) if with_logits else rows
