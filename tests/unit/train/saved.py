"""Checkpoints of small states, and harm to them: what tests of checkpoints share."""

import torch

from containers.train import lock
from containers.train.checkpoint import Checkpoints
from containers.train.distributed import Group


def state(number):
    return {"model": {"w": torch.full((50,), float(number))}, "number": number}


def saved(directory, count, best=()):
    checkpoints = Checkpoints(directory, Group.alone())
    for number in range(count):
        assert checkpoints.save(state(number), number, is_best=number in best)
    return checkpoints


def restored(directory):
    found = Checkpoints(directory, Group.alone()).restore()
    return found and found.state["number"]


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != lock.LOCK_FILE)


def damage(directory, number, how="torn"):
    path = next(directory.glob(f"checkpoint-{number:08d}-*"))
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    return path
