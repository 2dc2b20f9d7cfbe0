"""What a run can go on from: the newest state in a checkpoint directory that is whole, with all that it refers to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from containers.core import logs
from containers.train import checkpoint_file
from containers.train.checkpoint_file import Unusable

LATEST = "latest.json"
_log = logs.get(__name__)


@dataclass(frozen=True)
class Restored:
    """`state` as given to `save`; the best that it refers to was read, and found whole, with its base. With `best_lost` it was
    not, and `state` refers to none.
    """

    file: str
    state: dict[str, Any]
    base: dict[str, Tensor] | None
    best_base: str | None = None
    best_lost: bool = False

    @property
    def files(self) -> list[str]:
        """What it takes to go on from it, itself last."""
        names = [self.state["base_file"], self.best_base, self.state["best_file"], self.file]
        return list(dict.fromkeys(name for name in names if name))


class _BestLost(Unusable):
    """The state itself is whole."""


def newest(directory: Path) -> tuple[Restored | None, set[str]]:
    """(the newest that is whole, else the newest that lacks only its best, else None; the names of what was rejected).

    What was trained since a whole one is trained again, and the same model comes of it; without its best a run may end worse.
    """
    rejected: set[str] = set()
    lacks_best: str | None = None
    for name in _candidates(directory):
        try:
            return _load(directory, name), rejected
        except (Unusable, OSError) as error:  # kept by its name: its frames hold all that was read
            _log.error("checkpoint rejected; trying the one before", extra={"file": name, "reason": str(error)})
            rejected.add(name)
            if lacks_best is None and isinstance(error, _BestLost):
                lacks_best = name
    if lacks_best is None:
        return None, rejected
    _log.error("the best model so far is lost; going on from the newest checkpoint without it", extra={"file": lacks_best})
    return _load(directory, lacks_best, without_best=True), rejected - {lacks_best}


def _candidates(directory: Path) -> list[str]:
    """What latest.json names, then every other checkpoint, newest first."""
    names = sorted((path.name for path in directory.glob("checkpoint-*.pt")), reverse=True)
    try:
        named = json.loads((directory / LATEST).read_text(encoding="utf-8"))["file"]
        if not isinstance(named, str):
            raise TypeError(f"{named!r} is no file's name")
    except FileNotFoundError:
        return names
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.error("checkpoint list rejected; reading the files", extra={"file": LATEST, "reason": str(error)})
        return names
    return [named, *(name for name in names if name != named)]


def _load(directory: Path, name: str, *, without_best: bool = False) -> Restored:
    """Raises Unusable and OSError; _BestLost where nothing else is missing."""
    state = checkpoint_file.read(directory, name)
    base = checkpoint_file.read(directory, state["base_file"]) if state["base_file"] else None
    if without_best:
        return Restored(name, state | {"best_file": None}, base, best_lost=True)
    return Restored(name, state, base, _look_at(directory, state["best_file"]) if state["best_file"] else None)


def _look_at(directory: Path, best_file: str) -> str | None:
    """Raises _BestLost where a best cannot be used; returns the name of its base. What is read is large, and not kept."""
    try:
        base_file: str | None = checkpoint_file.read(directory, best_file)["base_file"]
        if base_file:
            checkpoint_file.read(directory, base_file)
    except (Unusable, OSError) as error:
        raise _BestLost(f"the best that it refers to, {best_file}, cannot be used: {error}") from error
    return base_file
