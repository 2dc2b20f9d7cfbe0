"""What is compared: our trainer, and a bare loop on tensors in memory. `reference` has the third.

Every side is a callable that trains on a fixed number of photos, set up beforehand.
"""

import contextlib
import copy
import dataclasses
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.training.measure import Side
from containers.core import architectures
from containers.train import phases, run
from containers.train.agreement import StopRequest
from containers.train.checkpoint import Checkpoints
from containers.train.config import TrainConfig
from containers.train.data import Batch
from containers.train.index import DatasetIndex, Photo
from containers.train.job import JobPaths, TrainingJob
from containers.train.optimisation import make_optimizer
from containers.train.phases import Phase
from containers.train.progress import Progress
from containers.train.recorder import Recorder
from containers.train.run import Run
from containers.train.trainer import Trainer

CLASSES = 4
LIGHT_SCALE = (0.35, 1.0)
"""Of the area, what augmentation=light crops."""


class Probe(nn.Module):
    """A net that costs next to nothing, so that everything around it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return out


def photos(root: Path, count: int, others: int = 1) -> DatasetIndex:
    """`count` smooth 500x375 JPEGs of about 60 KB, as cameras make them, in folders by class; `others` in valid and test."""
    random = np.random.default_rng(0)
    splits = {}
    for split, wanted in (("train", count), ("valid", others), ("test", others)):
        found = []
        for number in range(wanted):
            small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            coarse = small.resize((500, 375), Image.Resampling.BICUBIC)
            pixels = np.asarray(coarse, dtype=np.float64) + random.normal(0, 10, (375, 500, 3))
            path = root / split / f"class{number % CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)
            found.append(Photo(path=path, label=number % CLASSES, width=500, height=375, bytes=path.stat().st_size))
        splits[split] = tuple(found)
    return DatasetIndex.model_validate({"class_names": [f"class{n}" for n in range(CLASSES)], "splits": splits})


def photo_again(index: DatasetIndex, count: int) -> DatasetIndex:
    """`count` training photos: those of `index`, as often as it takes."""
    train = index.splits["train"]
    return index.model_copy(update={"splits": {**index.splits, "train": tuple(islice(cycle(train), count))}})


def job(root: Path, index: DatasetIndex, device: str = "cpu", **config: object) -> TrainingJob:
    settings = {"architecture": "resnet50", "pretrained": "none", "engines": "none", "patience": 0, "clip_grad_norm": 0}
    paths = JobPaths(
        model_dir=root / "model", output_dir=root / "output", checkpoint_dir=root / "checkpoints",
        failure_file=root / "failure", scratch_dir=root / "scratch",
    )  # fmt: skip
    made = TrainingJob(
        name="benchmark", config=TrainConfig.model_validate(settings | config), paths=paths, channels={}, device=device
    )
    made.write()
    index.write(paths.index_file)
    return made


class Ours:
    """One epoch of our trainer, polls, clocks and sums included; without evaluation. The photos are in `root`/photos."""

    def __init__(
        self,
        root: Path,
        index: DatasetIndex,
        device: str = "cpu",
        *,
        probe: bool = False,
        memory: bool = False,
        **config: object,
    ) -> None:
        self.root = root
        this = run.prepare(job(root, index, device, **config), StopRequest())
        self.run = dataclasses.replace(this, model=Probe()) if probe else this
        checkpoints = Checkpoints(root / "checkpoints", this.group)
        self.trainer = Trainer(self.run, checkpoints, Recorder(root / "tensorboard", active=True), {})
        self.phase = self._start(self.run, memory)

    @staticmethod
    def _start(this: Run, memory: bool) -> Phase:
        phase = phases.start(this, phases.ALL)
        if not memory:
            return phase
        size, side = this.config.batch_size, this.spec.crop
        images, labels = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8), torch.arange(size) % CLASSES
        if this.group.device.type == "cuda":  # as the loader's are
            images, labels = images.pin_memory(), labels.pin_memory()
        batch = Batch(images, labels, size, size)
        return dataclasses.replace(phase, batches=_InMemory(batch, len(this.index.splits["train"]) // size))

    def few(self, steps: int) -> None:
        """So many steps, of batches that are in memory."""
        assert isinstance(self.phase.batches, _InMemory)
        self._train(dataclasses.replace(self.phase, batches=dataclasses.replace(self.phase.batches, steps=steps)))

    def __call__(self) -> None:
        self._train(self.phase)

    def _train(self, phase: Phase) -> None:
        self.trainer.progress = Progress(phase=phases.ALL)
        self.trainer._train_epoch(phase)


@dataclasses.dataclass
class _InMemory:
    batch: Batch
    steps: int

    def __len__(self) -> int:
        return self.steps * self.batch.total

    def epoch(self, epoch: int, position: int) -> Iterator[Batch]:
        for _ in range(self.steps):
            yield self.batch


def twin(ours: Ours) -> nn.Module:
    """Our net once more, with the same weights and layout."""
    return copy.deepcopy(ours.run.model).train()


def bare(ours: Ours, steps: int) -> Side:
    """Forward, backward and optimiser on one batch in memory: the same net, loss, layout and optimiser as ours."""
    config, spec = ours.run.config, ours.run.spec
    net = twin(ours)
    torch.manual_seed(0)
    images = torch.randn(config.batch_size, 3, spec.crop, spec.crop).to(memory_format=torch.channels_last)
    labels = torch.arange(config.batch_size) % CLASSES
    prefix = "fc" if isinstance(net, Probe) else architectures.head_prefix(config.architecture)
    optimizer = make_optimizer(net, config, prefix)
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def side() -> None:
        for _ in range(steps):
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return side


@contextlib.contextmanager
def workspace(count: int) -> Iterator[tuple[Path, DatasetIndex]]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), photos(Path(folder) / "photos", count)
