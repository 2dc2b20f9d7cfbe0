"""The features of phase 1 as a GPU computes them, against the CPU's and against the head behind the frozen backbone."""

import dataclasses

import pytest
import torch

from containers.core import architectures
from containers.train import features, phases, run
from containers.train.agreement import StopRequest
from containers.train.checkpoint import Checkpoints
from containers.train.progress import Progress
from containers.train.recorder import Recorder
from containers.train.trainer import Trainer
from tests.support import training

CLOSE = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2}
"""Of the length of what is compared: 18 layers, each rounded to 24, 11 or 8 bits."""
EPOCHS = 3


def prepared(root, index, device, precision):
    settings = {"architecture": "resnet18", "deterministic": False, "augmentation": "none", "optimizer": "sgd"}
    job = training.make_job(root, index, **settings, precision=precision)
    return run.prepare(job.model_copy(update={"device": device}), StopRequest())


def cached(this):
    """Of the training photos, float32, on the CPU."""
    with features.headless(this.model, "resnet18") as backbone:
        cache = features.FeatureCache(
            this.job.paths.scratch_dir / "features", this.spec, this.group, this.loading,
            forward=this.forward(backbone, this.amp_dtype), identity="test", check=this.agreement.check,
        )  # fmt: skip
        return cache.features(this.index.splits["train"])


def off(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("precision", CLOSE)
def test_features_are_those_of_a_cpu_in_float32(tmp_path, index, gpu, precision):
    """The weights are the same: they are drawn on the CPU."""
    plain = cached(prepared(tmp_path / "cpu", index, "cpu", "fp32"))
    found = cached(prepared(tmp_path / "gpu", index, gpu.type, precision))
    assert (found.dtype, found.device.type, found.shape) == (torch.float32, "cpu", (40, 512))
    assert off(found, plain) < CLOSE[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_head_on_features_learns_what_it_learns_behind_the_backbone(tmp_path, index, gpu, precision):
    """fp16 skips its first steps behind the backbone, where its gradients are scaled, and none on features."""
    heads, scores = [], []
    for name, start in (("cached", phases._head_on_features), ("photos", phases._head_on_photos)):
        this = prepared(tmp_path / name, index, gpu.type, precision)
        phase = start(this)
        trainer = Trainer(
            this, Checkpoints(this.job.paths.checkpoint_dir, this.group), Recorder(tmp_path / "none", active=False), {}
        )
        before = architectures.head(this.model, "resnet18").weight.detach().clone()
        for number in range(EPOCHS):
            trainer.progress = Progress(phase=phases.HEAD, epoch=number, phase_step=5 * number, step=5 * number)
            trainer._train_epoch(dataclasses.replace(phase, epochs=EPOCHS))
        heads.append(phase.learned.weight.detach().float().cpu() - before.cpu())
        scores.append(phase.evaluate())
    assert heads[0].norm() > 0.01  # it has learned something
    assert off(heads[0], heads[1]) < 4 * CLOSE[precision]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=4 * CLOSE[precision])
