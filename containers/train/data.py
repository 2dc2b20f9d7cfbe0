"""Photos to batches: which photo comes when, on which rank, and the processes that decode them.

The order of an epoch is a function of (seed, phase, epoch), a position in it is a number of samples, and step k takes the
next `batch_size` of them over all ranks: nothing of a loader needs saving to resume, at any world size.
Batches are uint8 (N, crop, crop, 3), a quarter of the shared memory and copying that floats need; normalised on the device.
"""

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from containers.core import host, logs
from containers.core.preprocessing import PreprocessSpec
from containers.train.augmentation import evaluation_photo, mix, photo_transform
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.errors import DataError, WorkerFailed
from containers.train.index import Photo

_log = logs.get(__name__)
_PREFETCH = 2
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a file of ours: where torch passes tensors between processes
_ORDER, _AUGMENT = 1, 2
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Batch:
    """One rank's part of one global step. `images` may hold one photo too many: only `local` of them count."""

    images: Tensor
    labels: Tensor
    local: int
    total: int


def epoch_order(config: TrainConfig, labels: Tensor, phase: int, epoch: int) -> Tensor:
    """The photos of an epoch in order, int64 (N,): a permutation, or with class_balance=sampler a balanced draw."""
    generator = torch.Generator().manual_seed(mix(config.seed, _ORDER, phase, epoch))
    if config.class_balance != "sampler":
        return torch.randperm(len(labels), generator=generator)
    rarity = 1.0 / torch.bincount(labels).clamp(min=1).double()
    return torch.multinomial(rarity[labels], len(labels), replacement=True, generator=generator)


def step_parts(order: Tensor, position: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[list[int], int]]:
    """(this rank's indices, how many all ranks have) of each step from `position` on; every index exactly once."""
    for start in range(position, len(order), batch_size):
        chunk = order[start : start + batch_size].tolist()
        yield chunk[rank::world_size], len(chunk)


class _Steps(Sampler[list[tuple[int, int]]]):
    """Feeds one loader, epoch after epoch: items are (augmentation seed, photo).

    The seed follows the place in the order: a photo that is drawn again (class_balance=sampler) is another picture.
    """

    def __init__(self) -> None:
        self.order: Sequence[int] = ()
        self.plan: list[Sequence[int]] = []
        """Of each batch, its places in `order`."""
        self.key = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for places in self.plan:
            yield [(mix(self.key, place), self.order[place]) for place in places]


class _Photos(Dataset[tuple[Tensor, int]]):
    def __init__(self, photos: Sequence[Photo], spec: PreprocessSpec, config: TrainConfig | None) -> None:
        """`config` None: as evaluation and serving see them."""
        self._photos, self._spec = photos, spec
        self._transform = photo_transform(config, spec) if config else None

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        seed, index = item
        photo = self._photos[index]
        if self._transform is None:
            return evaluation_photo(photo.path, self._spec), photo.label
        return self._transform(photo.path, seed), photo.label


def _collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = default_collate(samples)
    return images, labels


def _collate_for_pipe(samples: list[tuple[Tensor, int]]) -> tuple[Any, Any]:
    """As numpy arrays, which travel through the queue's pipe and need no shared memory."""
    images = torch.stack([image for image, _ in samples])
    return images.numpy(), torch.tensor([label for _, label in samples]).numpy()


def _ignore_stop_signals(_worker: int) -> None:
    """Elastic signals whole process groups: without this the loader dies and the last checkpoint is never written."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


@contextmanager
def signals_held() -> Iterator[None]:
    """What forks here is not ended by a signal before it ignores it; ours come after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class LoaderPlan:
    """How photos reach the training process. `pipe`: /dev/shm is too small for the batches in flight."""

    workers: int
    pipe: bool


def plan_loader(
    config: TrainConfig, group: Group, batch_bytes: int, *, ranks_here: int, shared_memory: Path = SHARED_MEMORY
) -> LoaderPlan:
    """`batch_bytes` is one rank's largest batch. Docker gives a container 64 MB of shared memory unless told otherwise.

    For a GPU 8 processes are the most that nobody asked for. Of 500x375 JPEGs one core makes 665 a second (light; 281 with
    randaugment); an H100 takes 1,966 for ResNet-50 at 224, and cards of smaller hosts less, where cores end before 8 do. Each
    process holds 28 MB of its own and 3 batches of 10 MB in shared memory: 8 on each of 8 GPUs fit into docker's --shm-size 2g,
    16 do not, and would go through pipes. Who needs more (randaugment on eight fast GPUs, a small net) sets num_workers.
    """
    cores = max(1, host.cores() // max(1, ranks_here))
    workers = config.num_workers
    if workers < 0:
        workers = min(8, max(1, cores - 1)) if group.device.type == "cuda" else min(1, cores - 1)
    if workers == 0:
        return LoaderPlan(0, pipe=False)
    needed = ranks_here * workers * (_PREFETCH + 1) * batch_bytes
    try:
        free = shutil.disk_usage(shared_memory).free
    except OSError:
        free = 0
    if needed > free:
        fields = {"path": str(shared_memory), "free_mb": free // 2**20, "needed_mb": needed // 2**20, "workers": workers}
        _log.warning("shared memory is small: batches go through pipes, a little slower (docker: --shm-size)", extra=fields)
    return LoaderPlan(workers, pipe=needed > free)


class PhotoBatches:
    """The training photos, as each step's part of this rank."""

    def __init__(
        self, photos: Sequence[Photo], spec: PreprocessSpec, config: TrainConfig, group: Group, loading: LoaderPlan, phase: int
    ) -> None:
        self._config, self._group, self._phase = config, group, phase
        self._labels = torch.tensor([photo.label for photo in photos])
        self._steps = _Steps()
        self._loader = _loader(_Photos(photos, spec, config), self._steps, loading, group.device, persistent=True)

    def __len__(self) -> int:
        return len(self._labels)

    def epoch(self, epoch: int, position: int) -> Iterator[Batch]:
        """The steps of `epoch` from sample `position` on. Raises DataError or WorkerFailed."""
        order = epoch_order(self._config, self._labels, self._phase, epoch)
        places = torch.arange(len(order))
        plan = list(step_parts(places, position, self._config.batch_size, self._group.rank, self._group.world_size))
        counts = [(len(mine), total) for mine, total in plan]
        self._steps.order = order.tolist()
        # a rank without photos in the last step still takes part in its reduction, with one photo that counts nothing
        self._steps.plan = [mine or [0] for mine, _ in plan]
        self._steps.key = mix(self._config.seed, _AUGMENT, self._phase, epoch)
        for (images, labels), (local, total) in zip(_guarded(self._loader), counts, strict=True):
            yield Batch(images, labels, local, total)


def evaluation_batches(
    photos: Sequence[Photo], spec: PreprocessSpec, indices: Sequence[int], batch_size: int, loading: LoaderPlan, group: Group
) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 (N, crop, crop, 3), labels (N)) of these photos, in this order."""
    steps = _Steps()
    steps.order = indices
    steps.plan = [range(start, min(start + batch_size, len(indices))) for start in range(0, len(indices), batch_size)]
    few = LoaderPlan(min(loading.workers, len(steps.plan)), loading.pipe)
    return _guarded(_loader(_Photos(photos, spec, None), steps, few, group.device, persistent=False))


def _loader(
    photos: _Photos, steps: _Steps, loading: LoaderPlan, device: torch.device, *, persistent: bool
) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        photos,
        batch_sampler=steps,
        num_workers=loading.workers,
        collate_fn=_collate_for_pipe if loading.pipe else _collate,
        worker_init_fn=_ignore_stop_signals,
        prefetch_factor=_PREFETCH if loading.workers else None,
        persistent_workers=persistent and loading.workers > 0,
        pin_memory=device.type == "cuda" and not loading.pipe,
        generator=torch.Generator(),  # keeps the loader away from the process's random numbers
    )


_DIED = ("DataLoader worker (pid", "Pin memory thread exited unexpectedly")
"""As torch says it (2.10, utils/data/dataloader.py and DataLoader.cpp). Where memory is pinned for a GPU, a thread takes what
loaders send, and dies of it when one of them does."""


def died(error: RuntimeError) -> WorkerFailed | None:
    """A loader's death with its name. Torch raises it from a signal handler: out of whatever the rank is doing just then."""
    return _loader_died(error) if any(words in str(error) for words in _DIED) else None


def _loader_died(error: Exception) -> WorkerFailed:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return WorkerFailed(
        f"a process that loads photos died ({why}): it ran out of memory or shared memory; "
        "set num_workers=0 or use an instance with more memory"
    )


def _guarded(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Turns a dead loader process, and an error inside one, into an error with a name."""
    try:
        with signals_held():
            batches = iter(loader)
        for images, labels in batches:
            yield torch.as_tensor(images), torch.as_tensor(labels)
    except RuntimeError as error:
        if named := died(error):
            raise named from error
        raise
    except (ConnectionError, EOFError) as error:  # it died while it sent a batch, and torch has not noticed yet
        if "in DataLoader worker process" in str(error):  # raised there, while it read a photo
            raise
        raise _loader_died(error) from error
    except DataError as error:
        # torch appends the worker's traceback to the message
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("containers.train.errors.DataError: ")) from None
