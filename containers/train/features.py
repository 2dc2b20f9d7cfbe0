"""Phase 1 without waste: a frozen backbone says the same about a photo in every epoch, so it is asked once.

Features are what the head is fed: float32 (photos, width), computed as evaluation sees the photos, without augmentation.
They are kept in chunks on local scratch, named by everything they depend on (backbone weights, preprocessing, precision,
each photo's path, size and time of change), so a stale chunk is never found, and a restarted group goes on where it was.
A head on cached features costs so little that every rank computes all of it: no communication, the same result everywhere.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from containers.core import architectures, host, logs
from containers.core.preprocessing import PreprocessSpec
from containers.train.config import TrainConfig
from containers.train.data import Batch, LoaderPlan, epoch_order, evaluation_batches, step_parts
from containers.train.distributed import Group
from containers.train.index import Photo

CHUNK = 64
_MEMORY_SHARE = 0.25
_log = logs.get(__name__)


def can_cache(model: nn.Module, architecture: str, photos: int, ranks_here: int) -> bool:
    """The head must be one Linear layer, and all features must fit in a quarter of this rank's part of the free memory."""
    head = architectures.head(model, architecture)
    return isinstance(head, nn.Linear) and photos * head.in_features * 4 <= _MEMORY_SHARE * host.free_memory() / ranks_here


@contextmanager
def headless(model: nn.Module, architecture: str) -> Iterator[nn.Module]:
    """`model` returning its head's inputs, in eval mode, for the duration."""
    head = architectures.head(model, architecture)
    was_training = model.training
    parent, _, child = architectures.lookup(architecture).head.rpartition(".")
    try:
        yield architectures.without_head(model.eval(), architecture)
    finally:
        setattr(model.get_submodule(parent), child, head)
        model.train(was_training)


class FeatureCache:
    """Computes features, each rank its share, and gives every rank all of them."""

    def __init__(
        self,
        directory: Path,
        spec: PreprocessSpec,
        group: Group,
        loading: LoaderPlan,
        *,
        forward: Callable[[Tensor], Tensor],
        identity: str,
        check: Callable[[], None],
    ) -> None:
        """`forward`: uint8 photos → features (N, width) on any device; `identity` names weights, model and precision."""
        self._directory, self._spec, self._group, self._loading = directory, spec, group, loading
        self._forward, self._identity, self._check = forward, identity, check
        self.computed = 0
        """Photos that went through the backbone on this rank."""

    def features(self, photos: Sequence[Photo]) -> Tensor:
        """float32 (photos, width), on the CPU, on every rank. Raises StopRequested; chunks done by then are kept."""
        self._directory.mkdir(parents=True, exist_ok=True)
        chunks = [range(start, min(start + CHUNK, len(photos))) for start in range(0, len(photos), CHUNK)]
        names = [self._name([photos[index] for index in chunk]) for chunk in chunks]
        own = range(self._group.rank, len(chunks), self._group.world_size)
        found = {number: self._read(names[number]) for number in own}
        missing = [number for number in own if found[number] is None]
        todo = [index for number in missing for index in chunks[number]]
        batches = _by_chunk(photos, self._spec, todo, [len(chunks[n]) for n in missing], self._loading, self._group)
        parts: list[Tensor] = []
        for first in range(0, len(chunks), self._group.world_size):
            self._check()
            mine = first + self._group.rank
            if mine < len(chunks) and found[mine] is None:
                found[mine] = self._compute(names[mine], next(batches))
        for number, chunk in enumerate(chunks):
            parts.append(self._shared(found.get(number), len(chunk), number % self._group.world_size))
        return torch.cat(parts)

    def _name(self, photos: Sequence[Photo]) -> str:
        digest = hashlib.sha256(f"{self._identity}\n{self._spec.model_dump_json()}\n".encode())
        for photo in photos:
            status = photo.path.stat()
            digest.update(f"{photo.path}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
        return f"{digest.hexdigest()[:32]}.safetensors"

    def _read(self, name: str) -> Tensor | None:
        path = self._directory / name
        try:
            return load_file(path)["features"]
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            _log.warning("cached features rejected; computing them again", extra={"file": name, "reason": str(error)})
            return None

    def _compute(self, name: str, images: Tensor) -> Tensor:
        features = self._forward(images).float().cpu()
        self.computed += len(images)
        temporary = self._directory / f".{name}.{self._group.rank}.tmp"
        try:
            save_file({"features": features.contiguous()}, temporary)
            temporary.rename(self._directory / name)
        except (OSError, SafetensorError) as error:  # a full scratch disk costs a restart its shortcut, nothing else
            temporary.unlink(missing_ok=True)
            _log.warning("cached features not kept", extra={"file": name, "reason": str(error)})
        return features

    def _shared(self, features: Tensor | None, rows: int, owner: int) -> Tensor:
        width = int(self._group.broadcast(features.shape[1] if features is not None else 0, owner))
        return self._group.broadcast_tensor(features if features is not None else torch.empty(rows, width), owner)


def _by_chunk(
    photos: Sequence[Photo], spec: PreprocessSpec, todo: Sequence[int], sizes: Sequence[int], loading: LoaderPlan, group: Group
) -> Iterator[Tensor]:
    """The photos of each missing chunk. Only the last chunk of all can be short, so chunks and batches coincide."""
    for (images, _labels), size in zip(evaluation_batches(photos, spec, todo, CHUNK, loading, group), sizes, strict=True):
        if len(images) != size:
            raise AssertionError(f"a chunk of {size} photos came as {len(images)}")
        yield images


def backbone_identity(model: nn.Module, architecture: str, amp_dtype: torch.dtype | None) -> str:
    """Changes with any value of any backbone parameter or buffer."""
    digest = hashlib.sha256(f"{architecture} {amp_dtype} {torch.__version__}".encode())
    prefix = architectures.head_prefix(architecture)
    for name, tensor in model.state_dict().items():
        if not name.startswith(prefix):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureBatches:
    """Cached features as training steps; every rank gets every step whole."""

    def __init__(self, features: Tensor, labels: Tensor, config: TrainConfig, phase: int) -> None:
        self._features, self._labels, self._config, self._phase = features, labels, config, phase

    def __len__(self) -> int:
        return len(self._labels)

    def epoch(self, epoch: int, position: int) -> Iterator[Batch]:
        order = epoch_order(self._config, self._labels, self._phase, epoch)
        for indices, total in step_parts(order, position, self._config.batch_size, 0, 1):
            yield Batch(self._features[indices], self._labels[indices], total, total)


def feature_rows(features: Tensor, labels: Tensor, batch_size: int, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of a split's features, for `evaluation.evaluate`."""
    mine = torch.tensor(range(group.rank, len(labels), group.world_size), dtype=torch.int64)
    for part in torch.split(mine, batch_size):
        yield features[part], labels[part]
