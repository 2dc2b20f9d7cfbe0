"""Which photos each step of a training run really learned from, told by the tensors themselves."""

import functools
import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path

from containers.train import optimisation
from containers.train.data import Batch
from tests.faults.invariants import hold


def install(folder: Path) -> None:
    """Before every step, this rank appends what it learns from to a file of its own: (step, the digests of its photos)."""
    folder.mkdir(parents=True, exist_ok=True)
    original, born = optimisation.Stepper.step, time.monotonic_ns()

    @functools.wraps(original)
    def step(self, batch: Batch, rate: float, number: int):
        replicated = self._peers == 1 and self._group.world_size > 1  # then every rank computes all of every step
        photos = [] if replicated and self._group.rank else [_digest(photo) for photo in batch.images[: batch.local]]
        handle = os.open(folder / f"rank-{self._group.rank}-{born:020d}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps({"step": number, "photos": photos}) + "\n").encode())
        os.close(handle)
        return original(self, batch, rate, number)

    optimisation.Stepper.step = step


def _digest(photo) -> str:
    return hashlib.sha256(photo.contiguous().numpy().tobytes()).hexdigest()[:16]


def _before(steps: dict, resumed: int | None) -> dict:
    return steps if resumed is None else {step: photos for step, photos in steps.items() if step < resumed}


class Lineage:
    """The steps that the final weights come from: a start that resumes at step n forgets what earlier ones did from n on."""

    def __init__(self) -> None:
        self._steps: dict[int, Counter] = {}

    def add(self, folder: Path) -> None:
        """One start's record, of all ranks; one that was replaced within it has lived more than once."""
        ranks: dict[str, dict[int, list[str]]] = {}
        for path in sorted(folder.glob("rank-*.jsonl")):
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]  # a kill may tear the last one
            told = {line["step"]: line["photos"] for line in map(json.loads, lines)}
            rank = path.name.split("-")[1]
            ranks[rank] = _before(ranks.get(rank, {}), min(told, default=None)) | told
        self._steps = _before(self._steps, min((min(told) for told in ranks.values() if told), default=None))
        for told in ranks.values():
            for step, photos in told.items():
                self._steps.setdefault(step, Counter()).update(photos)

    def check(self, reference: "Lineage", steps_per_epoch: int) -> None:
        """I5: every step is there, learned from what the undisturbed run's did, and no epoch met a photo twice."""
        hold(sorted(self._steps) == sorted(reference._steps), "I5", f"the steps that count are {sorted(self._steps)}")
        epochs: dict[int, Counter] = {}
        for step, photos in self._steps.items():
            hold(photos == reference._steps[step], "I5", f"step {step} learned from other photos")
            epochs.setdefault(step // steps_per_epoch, Counter()).update(photos)
        sizes = {sum(photos.values()) for photos in epochs.values()}
        hold(len(sizes) == 1, "I5", f"epochs of {sizes} photos")
        for epoch, photos in epochs.items():
            hold(set(photos.values()) == {1}, "I5", f"epoch {epoch} met a photo twice")
