"""A trainer whose validation losses are given; everything else is real."""

import dataclasses
import errno

import torch

from containers.train import phases, resume, run
from containers.train.agreement import StopRequest, StopRequested
from containers.train.checkpoint import Checkpoints
from containers.train.evaluation import Scores
from containers.train.recorder import Recorder
from containers.train.trainer import Trainer

HEAD_ONLY = {"architecture": "mobilenet_v3_small", "epochs": 0, "head_epochs": 6, "deterministic": False}


def scores(loss):
    one = torch.tensor([0])
    return Scores(one, torch.tensor([loss], dtype=torch.float64), one, one, one.double(), torch.empty(1, 0), 2)


class Scripted:
    """Trains the head for real; the validation losses are given. 'stop' is a request to stop during the evaluation.

    The disk refuses the checkpoints of the evaluations in `full`, counted from 1.
    """

    def __init__(self, job, losses, full=()):
        self.this = run.prepare(job, StopRequest())
        self.losses, self.full, self.evaluations = list(losses), set(full), 0
        self.checkpoints = Checkpoints(job.paths.checkpoint_dir, self.this.group, self.on_commit)
        recorder = Recorder(job.paths.output_dir / "tensorboard", active=True)
        facts, restored = resume.begin(self.this, self.checkpoints, lambda: "none")
        self.trainer = Trainer(self.this, self.checkpoints, recorder, facts, start=self.start)
        if restored:
            self.trainer.resume(restored)

    def start(self, this, number, saved=None):
        phase = phases.start(this, number, saved)
        return dataclasses.replace(phase, evaluate=self.evaluate)

    def on_commit(self, step):
        if step.startswith("write checkpoint") and self.evaluations in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def evaluate(self):
        loss = self.losses.pop(0)
        self.evaluations += 1
        if loss == "stop":
            raise StopRequested
        return scores(loss)

    def fit(self):
        return self.trainer.fit()

    @property
    def head(self):
        return {name: value.clone() for name, value in self.this.model.classifier[3].state_dict().items()}
