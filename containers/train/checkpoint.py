"""Training state on disk: a file is either complete and named by its digest, or it does not exist.

Commit: write `.name.tmp` → fsync → rename → fsync the directory → the same for `latest.json` → prune. A kill between any
two of these leaves a directory that loads. SageMaker mirrors it to S3 while we write, hence the leading dot of unfinished
files and immutability of finished ones.

    base-<digest>.pt                 the whole model before phase 1, which then saves only its head; kept as long as that counts
    checkpoint-<serial>-<digest>.pt  the last two, and the best each of them knew
    latest.json                      {"file", "step", "sha256"}
    .lock                            held by rank 0 as long as it lives
"""

import json
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from containers.core import logs
from containers.train import checkpoint_file, lock, restored
from containers.train.distributed import Group
from containers.train.errors import TrainingError
from containers.train.restored import LATEST, Restored

_KEEP = 2
_log = logs.get(__name__)


class Checkpoints:
    """Rank 0 saves; every rank restores the same state, wherever the newest copy lies."""

    def __init__(
        self,
        directory: Path,
        group: Group,
        on_commit: Callable[[str], None] = lambda _step: None,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_commit` is told each step of the commit protocol before it happens; `asked` says whether to stop.

        Rank 0 waits for another run that still writes here. Raises ConfigError and NotBegun as `lock.hold`.
        """
        self._directory, self._group, self._on_commit = directory, group, on_commit
        self._serial = 0
        self._recent: dict[str, str | None] = {}
        """The last names, each with the best it refers to: without that a checkpoint is of no use."""
        self._rejected: set[str] = set()
        self._base: str | None = None
        self._bases: dict[str, str | None] = {}
        """What each checkpoint is of use with."""
        self.best_file: str | None = None
        self.committed = False
        """There is a checkpoint to go on from; the same on every rank."""
        directory.mkdir(parents=True, exist_ok=True)
        if group.is_first:
            held = lock.hold(directory, asked)
            if held is not None:
                weakref.finalize(self, os.close, held)
            self._clean()

    def _clean(self) -> None:
        """Delete what is half-written."""
        for leftover in self._directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def save_base(self, state: Mapping[str, Tensor]) -> None:
        """Keep the whole model, which later checkpoints of the head refer to. Call on every rank: only rank 0 writes.

        Raises TrainingError, on all, where the disk refuses: no later checkpoint could be gone on from.
        """
        reason = ""
        if self._group.is_first:
            try:
                self._base = self._commit("base", dict(state))[0]
            except OSError as error:
                self._clean()
                reason = str(error)
        if self._group.broadcast(float(bool(reason))):
            raise TrainingError(f"no checkpoint can be written to {self._directory}: make room ({reason or 'rank 0 says why'})")

    def save(self, state: Mapping[str, Any], step: int, *, is_best: bool = False, on_base: bool = False) -> bool:
        """Commit `state`. False, with an error in the log, where the disk refuses: the one before then stays newest, and best.

        `on_base`: it is of use only with what `save_base` kept. Call on every rank: only rank 0 writes, and all get its answer.
        """
        saved = self._group.is_first and self._write(state, step, is_best=is_best, base=self._base if on_base else None)
        answer = bool(self._group.broadcast(float(saved)))
        self.committed = self.committed or answer
        return answer

    def _write(self, state: Mapping[str, Any], step: int, *, is_best: bool, base: str | None) -> bool:
        best = None if is_best else self.best_file  # None: this very file
        content = {**state, "schema": checkpoint_file.SCHEMA, "base_file": base, "best_file": best, "is_best": is_best}
        try:
            name, digest = self._commit(f"checkpoint-{self._serial:08d}", content)
            self._serial += 1
            latest = json.dumps({"file": name, "step": step, "sha256": digest}).encode()
            self._replace(LATEST, lambda temporary: temporary.write_bytes(latest))
        except OSError as error:
            self._clean()
            _log.error("checkpoint not written; the previous one stays the newest", extra={"reason": str(error), "step": step})
            return False
        self.best_file = name if is_best else self.best_file
        self._recent = dict([*self._recent.items(), (name, best)][-_KEEP:])
        self._bases[name] = base
        self._on_commit("prune")
        self._prune()
        _log.debug("checkpoint", extra={"file": name, "step": step})
        return True

    def _commit(self, prefix: str, content: Mapping[str, Any]) -> tuple[str, str]:
        """Write `content` as an immutable file. Returns (its name, its SHA-256)."""
        found: dict[str, str] = {}

        def write(temporary: Path) -> None:
            found["digest"] = checkpoint_file.write(temporary, content)

        name = self._replace(lambda: checkpoint_file.name_of(prefix, found["digest"]), write, prefix)
        return name, found["digest"]

    def _replace(self, name: str | Callable[[], str], write: Callable[[Path], object], prefix: str = "latest") -> str:
        temporary = self._directory / f".{prefix}.tmp"
        self._on_commit(f"write {prefix}")
        write(temporary)
        self._on_commit(f"sync {prefix}")
        checkpoint_file.sync(temporary)
        final = name if isinstance(name, str) else name()
        self._on_commit(f"rename {prefix}")
        temporary.rename(self._directory / final)
        checkpoint_file.sync(self._directory)
        return final

    def _prune(self) -> None:
        keep = {*self._recent, *self._recent.values(), self.best_file, *self._rejected}
        for path in self._directory.glob("checkpoint-*.pt"):
            if path.name not in keep:
                path.unlink(missing_ok=True)
        bases = {self._bases.get(name) for name in keep if name}
        for path in self._directory.glob("base-*.pt") if not self._rejected else ():
            if path.name not in bases:
                path.unlink(missing_ok=True)

    def restore(self) -> Restored | None:
        """The newest valid state any rank can read, on every rank; None where there is none.

        One whose best cannot be read any more counts where no rank has a whole one.
        What is rejected on the way is logged by name, and not deleted before the next start. Where ranks do not share a disk,
        the one with the newest state (the lowest rank among equals) sends it, with the files it refers to; rank 0 keeps them.
        """
        mine, rejected = restored.newest(self._directory)
        self._rejected |= rejected
        self._serial = max(self._serial, *(checkpoint_file.serial(name) + 1 for name in rejected), 0)
        none = (False, -1, "")
        offers = self._group.gather((not mine.best_lost, checkpoint_file.serial(mine.file), mine.file) if mine else none)
        newest = max(offers)
        if newest == none:
            if self._rejected:
                what = "no checkpoint can be used; training starts anew (what is there is kept until the next start)"
                _log.error(what, extra={"directory": str(self._directory), "files": sorted(self._rejected)})
            return None
        if any(offer != newest for offer in offers):
            mine = self._shared(mine, offers.index(newest))
        if mine is None:
            raise AssertionError("a checkpoint was agreed on that this rank does not have")
        self._serial = max(self._serial, newest[1] + 1)
        self._recent = {mine.file: mine.state["best_file"]}
        self._base = mine.state["base_file"]
        self._bases = {mine.state["best_file"]: mine.best_base, mine.file: self._base}
        self.best_file = mine.file if mine.state["is_best"] else mine.state["best_file"]
        self.committed = True
        return mine

    def forget_best(self) -> None:
        """Another run begins here. Nothing of it is committed, and what was best is no longer compared with; it is kept as long
        as what was restored is.
        """
        self.best_file, self.committed = None, False

    def load_best(self) -> tuple[dict[str, Any], dict[str, Tensor] | None] | None:
        """(state of the best evaluation, base), on every rank; None before the first. Only rank 0's disk is read."""
        best = self._from_first(self.best_file)
        return None if best is None else (best, self._from_first(best["base_file"]))

    def read_best(self) -> tuple[dict[str, Any], dict[str, Tensor] | None] | None:
        """As `load_best`, on rank 0 alone, and of the file only what is used: the optimiser's part is the larger one."""
        if self.best_file is None:
            return None
        best = checkpoint_file.parse(self._directory / self.best_file)
        return best, checkpoint_file.parse(self._directory / best["base_file"]) if best["base_file"] else None

    def _from_first(self, name: str | None) -> dict[str, Any] | None:
        if not self._group.broadcast(float(name is not None)):
            return None
        if self._group.world_size == 1 and name:
            return checkpoint_file.parse(self._directory / name)
        data = (self._directory / name).read_bytes() if self._group.is_first and name else None
        return checkpoint_file.parse(self._group.broadcast_bytes(data, 0))

    def _shared(self, mine: Restored | None, owner: int) -> Restored:
        """What `owner` has, on every rank. Rank 0 keeps the files, to go on from; nobody would prune those of the others."""
        names, best_lost = self._group.gather((mine.files, mine.best_lost) if mine else ([], False))[owner]
        told: dict[str, dict[str, Any]] = {}
        for name in names:
            own = (self._directory / name).read_bytes() if self._group.rank == owner else None
            data = self._group.broadcast_bytes(own, owner)
            if self._group.is_first:
                self._keep(name, data)
            told[name] = checkpoint_file.checked(name, data)
        state = told[names[-1]] | ({"best_file": None} if best_lost else {})
        best_base = told[state["best_file"]]["base_file"] if state["best_file"] else None
        return Restored(names[-1], state, told[state["base_file"]] if state["base_file"] else None, best_base, best_lost)

    def _keep(self, name: str, data: bytes) -> None:
        path = self._directory / name
        self._rejected.discard(name)
        if not path.exists() or path.read_bytes() != data:  # its own copy may be what it rejected
            temporary = path.with_name(f".{name}.tmp")
            temporary.write_bytes(data)
            temporary.rename(path)
