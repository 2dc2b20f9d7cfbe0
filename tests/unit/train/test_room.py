"""What a run is said to take up is what it takes up."""

import dataclasses

import pytest
import torch

from containers.core import architectures, manifest
from containers.core.errors import ConfigError
from containers.train import room, run
from containers.train.agreement import StopRequest
from containers.train.distributed import Group
from tests.support.training import train


def files(directory, pattern):
    return sum(path.stat().st_size for path in directory.glob(pattern))


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd"}, {"ema_decay": 0.9}, {"epochs": 0}])
def test_the_estimate_is_what_a_run_writes(job, settings):
    ended = job(**{"head_epochs": 1, "epochs": 1, **settings})
    train(ended)
    this = run.prepare(ended, StopRequest())
    newest = max(ended.paths.checkpoint_dir.glob("checkpoint-*.pt"))
    written = files(ended.paths.checkpoint_dir, "base-*.pt") + room._CHECKPOINTS * newest.stat().st_size
    assert room.checkpoints(this) == pytest.approx(written, rel=0.1)
    weights = (ended.paths.model_dir / manifest.WEIGHTS_FILE).stat().st_size
    assert weights < room.model(this) < weights + (9 << 20)


def test_a_large_net_needs_more_than_a_small_one_and_only_rank_0_looks(job):
    tiny = job(engines="int8")
    large = tiny.model_copy(update={"config": tiny.config.model_copy(update={"architecture": "vit_b_16", "image_size": 0})})
    this = dataclasses.replace(
        run.prepare(tiny, StopRequest()), job=large, model=architectures.build("vit_b_16", 2, empty=True)
    )
    assert 4 * 1.02e9 < room.checkpoints(this) < 4 * 1.04e9 + 0.35e9
    assert 2.2 * 0.343e9 < room.model(this) < 2.3 * 0.343e9 + (8 << 20)
    other = dataclasses.replace(this, group=Group(1, 2, 0, torch.device("cpu")), job=large.model_copy(update={"paths": None}))
    room.check(other, finished=False)


def test_a_disk_without_that_room_is_named(job, monkeypatch):
    this = run.prepare(job(), StopRequest())
    monkeypatch.setattr(room, "_CHECKPOINTS", 10**9)
    with pytest.raises(ConfigError, match="MB free and training needs"):
        room.check(this, finished=False)
    room.check(this, finished=True)
