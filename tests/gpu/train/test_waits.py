"""Nothing in a step waits for the GPU (docs/decisions/030): torch raises where something does."""

import contextlib
import warnings

import pytest
import torch

from containers.train import phases, run
from containers.train.agreement import StopRequest
from containers.train.checkpoint import Checkpoints
from containers.train.progress import Progress
from containers.train.recorder import Recorder
from containers.train.trainer import Trainer
from tests.support import training

SETTINGS = {
    "defaults": {},
    "fp16": {"precision": "fp16"},
    "fp32": {"precision": "fp32"},
    "accumulation": {"micro_batch_size": 3},
    "accumulation in fp16": {"micro_batch_size": 3, "precision": "fp16"},
    "average": {"ema_decay": 0.9},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.4, "cutmix": 1.0},
    "weights of classes": {"class_balance": "weights"},
    "sgd": {"optimizer": "sgd"},
    "compression": {"gradient_compression": True},
    "no clipping": {"clip_grad_norm": 0.0},
    "skipping": {"stop_on_nonfinite": False},
    "skipping in fp16": {"stop_on_nonfinite": False, "precision": "fp16"},
    "skipping with sgd": {"stop_on_nonfinite": False, "optimizer": "sgd"},
}


@contextlib.contextmanager
def waiting_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature": it does not see all waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_would_be_seen(gpu):
    loss = torch.ones((), device=gpu)
    with pytest.raises(RuntimeError, match="synchronizing"), waiting_is_an_error():
        loss.item()


def epoch(tmp_path, index, gpu, phase_number, **settings):
    """A function that trains one epoch, loader, poll, clock and sums included."""
    small = {"architecture": "resnet18", "deterministic": False, "augmentation": "light", **settings}
    job = training.make_job(tmp_path, index, **small).model_copy(update={"device": gpu.type})
    this = run.prepare(job, StopRequest())
    phase = phases.start(this, phase_number)
    recorder = Recorder(job.paths.tensorboard_dir, active=False)
    trainer = Trainer(this, Checkpoints(job.paths.checkpoint_dir, this.group), recorder, {})

    def train():
        trainer.progress = Progress(phase=phase_number)
        trainer._train_epoch(phase)
        return phase

    return train


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_epoch_of_every_layer_waits_nowhere(tmp_path, index, gpu, settings):
    train = epoch(tmp_path, index, gpu, phases.ALL, **settings)
    train()  # CUDA's libraries are loaded, the optimiser makes its state
    with waiting_is_an_error():
        phase = train()
    assert phase.stepper.sums[2].item() == 80  # both epochs' photos
    assert 0 < phase.stepper.sums[0].item() < 1000


def test_an_epoch_of_the_head_waits_nowhere(tmp_path, index, gpu):
    train = epoch(tmp_path, index, gpu, phases.HEAD)
    train()
    with waiting_is_an_error():
        phase = train()
    assert phase.cached
    assert phase.stepper.sums[2].item() == 80
