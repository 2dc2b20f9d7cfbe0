"""From a job file to a model directory, on one rank: builds the parts, trains, writes the results."""

import os
from pathlib import Path

from containers.core import accelerator, logs
from containers.train import data, distributed, memory, pretrained, results, resume, room, run
from containers.train.agreement import StopRequest, StopRequested
from containers.train.checkpoint import Checkpoints
from containers.train.errors import Interrupted, NonFiniteLoss, NotBegun
from containers.train.job import TrainingJob
from containers.train.recorder import Recorder
from containers.train.run import Run
from containers.train.trainer import Trainer

_LATE_STOP = "asked to stop after the last epoch; start the job again to complete the results"


def train(job_file: Path) -> int:
    """Raises Interrupted (the checkpoint is committed), and whatever else ends a run early."""
    request = StopRequest()
    request.listen()
    job = TrainingJob.read(job_file)
    logs.configure(rank=int(os.environ.get("RANK", "0")), host=job.cluster.current_host)
    try:
        return _run(job, request)
    except (RuntimeError, MemoryError, OSError) as error:
        if named := memory.ran_out(error, job.config):
            raise named from error
        raise


def _run(job: TrainingJob, request: StopRequest) -> int:
    this = run.prepare(job, request)
    recorder = Recorder(job.paths.tensorboard_dir, active=this.group.is_first)
    checkpoints = Checkpoints(job.paths.checkpoint_dir, this.group, asked=lambda: request.asked)
    trainer = _begin(this, request, checkpoints, recorder)
    room.check(this, finished=trainer.finished)
    try:
        complete = _train(this, request, trainer, checkpoints, recorder)
    except RuntimeError as error:
        if named := data.died(error) or distributed.no_shared_memory(error):
            raise named from error
        if cause := accelerator.reported_late(error, this.group.device):
            raise cause from error
        raise
    this.group.barrier()  # no rank leaves before rank 0 has written everything
    if not this.group.broadcast(float(complete)):
        raise Interrupted(_LATE_STOP)
    this.group.leave()
    return 0


def _begin(this: Run, request: StopRequest, checkpoints: Checkpoints, recorder: Recorder) -> Trainer:
    """A trainer that starts, or goes on where the checkpoint is; what was read of it is in no other hands."""
    facts, restored = resume.begin(this, checkpoints, lambda: _pretrained(this, request))
    trainer = Trainer(this, checkpoints, recorder, facts)
    if restored is not None:
        trainer.resume(restored)
    return trainer


def _train(this: Run, request: StopRequest, trainer: Trainer, checkpoints: Checkpoints, recorder: Recorder) -> bool:
    """Whether rank 0 has written everything; only its own word counts."""
    try:
        reason = trainer.fit()
        outcome = results.finish(this, trainer, checkpoints, reason)
    except (StopRequested, Interrupted, NonFiniteLoss) as error:  # on every rank
        results.keep_usable(this, trainer, checkpoints)
        this.group.barrier()
        if isinstance(error, StopRequested):
            raise Interrupted(_LATE_STOP) from None
        raise
    if not this.group.is_first:
        return True
    recorder.result(outcome.row)
    recorder.close()
    from containers.train import report  # matplotlib: half a second that every start of a rank would pay, for its last minute

    report.write(this, outcome)
    try:
        with request.at_once():
            if notes := results.add_engines(this):
                report.write(this, outcome, notes)
    except StopRequested:
        return False
    return True


def _pretrained(this: Run, request: StopRequest) -> str:
    """Rank 0 finds the weights; a phase begins by making all ranks equal to it.

    Raises NotBegun, on every rank, when asked to stop meanwhile: a download may take minutes.
    """
    if this.config.pretrained == "none":
        return "none"
    found: str | None = "none"
    if this.group.is_first:
        try:
            with request.at_once():
                found = pretrained.load(this.model, this.config.architecture, this.job.channels.get("pretrained"))
        except StopRequested:
            found = None
    this.group.barrier()  # a download may take longer than other waits are given
    if not this.group.broadcast(float(found is not None)):
        raise NotBegun("asked to stop while the pretrained weights were loaded; start the job again to train")
    return found or "none"
