"""Checks that several kinds of faults share; the invariants themselves are on the package's page."""

import contextlib
import json
import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import psutil

from containers.core import manifest

REJECTED = "checkpoint rejected; trying the one before"


class Broken(AssertionError):
    """An invariant did not hold."""


def hold(condition: object, invariant: str, message: str) -> None:
    if not condition:
        raise Broken(f"{invariant}: {message}")


def shuffled(kinds: Sequence[str], count: int, dice: random.Random) -> list[str]:
    """`count` events, every kind about equally often; `dice` decides which come once more, and in which order."""
    rounds, rest = divmod(count, len(kinds))
    chosen = [*list(kinds) * rounds, *dice.sample(list(kinds), rest)]
    dice.shuffle(chosen)
    return chosen


def ended(processes: Iterable[psutil.Process], seconds: float = 60.0) -> None:
    """I1: within `seconds` none of them is left."""
    _, alive = psutil.wait_procs(list(processes), timeout=seconds)
    alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    hold(not alive, "I1", f"left behind: {[process.pid for process in alive]}")


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def failure_told(path: Path, after: str, *cause: str) -> str:
    """I2: the failure file's text. `cause` is the kind of error it must start with, and words it must have."""
    told = path.read_bytes() if path.exists() else b""
    hold(0 < len(told) <= 1024, "I2", f"failure file of {len(told)} bytes after: {after}")
    text = told.decode("utf-8")
    hold(text[0].isalpha() and ":" in text, "I2", f"failure file {text!r} after: {after}")
    if cause:
        kind, *words = cause
        right = text.startswith(f"{kind}: ") and all(word in text for word in words)
        hold(right, "I2", f"the failure file tells of another cause than {cause} after {after}: {text}")
    return text


def model_whole(model_dir: Path) -> None:
    """I3."""
    if (model_dir / manifest.MANIFEST_FILE).exists():
        manifest.verify(model_dir, manifest.read(model_dir))


def newest(checkpoints: Path) -> str:
    """The checkpoint that `latest.json` names, "" where there is none."""
    latest = checkpoints / "latest.json"
    return str(json.loads(latest.read_text())["file"]) if latest.exists() else ""


def checkpoint_whole(checkpoints: Path) -> None:
    """I4."""
    if name := newest(checkpoints):
        wanted = json.loads((checkpoints / "latest.json").read_text())["sha256"]
        path = checkpoints / name
        hold(path.exists() and manifest.sha256(path) == wanted, "I4", f"{name} is not what is there")


def damage(checkpoints: Path, dice: random.Random) -> str:
    """Tear or alter the newest checkpoint, as a bad disk or copy would; its name, "" where there is none."""
    name = newest(checkpoints)
    if name:
        data = bytearray((checkpoints / name).read_bytes())
        place = dice.randrange(len(data))
        if dice.random() < 0.5:
            data = data[:place]
        else:
            data[place] ^= 1 << dice.randrange(8)
        (checkpoints / name).write_bytes(data)
    return name


def rejected(lines: list[str], damaged: str, *, trained: bool, earlier: Collection[str] = ()) -> None:
    """I4: `lines` are the checkpoints a start rejected; the damaged one and no other, and never in silence. After it may come
    those that were damaged `earlier`: a start that rejects one leaves it where it is.
    """
    known = lines[:1] == [damaged] and set(lines[1:]) <= set(earlier)
    hold(not lines or known, "I4", f"rejected {lines}, damaged was {damaged or 'none'}, before it {sorted(earlier)}")
    hold(lines or not damaged or not trained, "I4", f"{damaged} is damaged and was not rejected")


def weights(model_dir: Path) -> str:
    """The SHA-256 of the weights a model directory holds."""
    return manifest.read(model_dir).files[manifest.WEIGHTS_FILE]
