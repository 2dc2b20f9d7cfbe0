"""The order of events in a training run. Every rank runs this page; only rank 0 decides and writes.

for each phase:  train an epoch → evaluate exactly → rank 0 decides, all hear → checkpoint → one metric line
"""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from containers.core import logs
from containers.train import abandon, nonfinite, phases
from containers.train.agreement import Signal, StopRequested
from containers.train.checkpoint import Checkpoints
from containers.train.data import Batch
from containers.train.early_stopping import EarlyStopping, StopReason, Verdict
from containers.train.errors import Interrupted, NonFiniteLoss
from containers.train.evaluation import Scores
from containers.train.optimisation import learning_rate
from containers.train.phases import Phase
from containers.train.progress import EpochClock, Progress, Row, interrupted
from containers.train.recorder import Recorder
from containers.train.restored import Restored
from containers.train.run import Run

_log = logs.get(__name__)
_LOOK_AT_LOSS_EVERY = 50  # steps, on a GPU, where looking means waiting for it


class Trainer:
    """`facts` are saved with every checkpoint: what a resumed run must agree with."""

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        recorder: Recorder,
        facts: Mapping[str, Any],
        start: Callable[..., Phase] = phases.start,
    ) -> None:
        self._run, self._checkpoints, self._recorder, self.facts = run, checkpoints, recorder, facts
        self._start = start
        self.stopping = EarlyStopping(run.config.patience, run.config.min_delta)
        self.progress = Progress()
        self._restored: Restored | None = None
        self._phase: Phase | None = None

    def resume(self, restored: Restored) -> None:
        """Go on from a checkpoint of this run."""
        self._restored = restored
        self.progress = Progress(**restored.state["progress"])
        self.stopping.load_state_dict(restored.state["stopping"])
        if restored.best_lost:
            self._begin_best_anew(restored.file)
        phases.load_weights(self._run, restored.state, restored.base)
        _log.info("resumed", extra={"file": restored.file, "step": self.progress.step, "samples": self.progress.samples})

    def _begin_best_anew(self, file: str) -> None:
        """With the epoch that `file` is the end of; in the middle of one there is none before the next evaluation."""
        last = float(self.progress.history[-1]["valid_loss"]) if self.progress.epoch > 0 else math.inf
        if math.isfinite(last) and self.progress.samples == 0:
            self.stopping.best_is_still(last, self.progress.total_epochs)
            self._checkpoints.best_file = file
        else:
            self.stopping.best_is_still(math.inf, -1)

    @property
    def finished(self) -> bool:
        """Nothing is left to train."""
        return not any(self._has_work(number) for number in range(self.progress.phase, len(phases.NAMES)))

    def fit(self) -> StopReason:
        """Train until done. Raises Interrupted (checkpoint committed) and NonFiniteLoss (the best checkpoint stays)."""
        try:
            for number in range(self.progress.phase, len(phases.NAMES)):
                if self._has_work(number):
                    self._train_phase(number)
        except StopRequested:
            raise self._interrupted() from None
        self._restored = None  # of a finished run
        if math.isinf(self.stopping.reference):
            raise self._non_finite("the validation loss of every epoch")
        return StopReason.PATIENCE if self.stopping.exhausted else StopReason.EPOCHS

    def _train_phase(self, number: int) -> None:
        phase = self._enter(number)
        while not self._finished(number):
            self._train_epoch(phase)
            sums = self._sums(phase)
            if not sums[2]:
                raise self._non_finite("the loss or gradient of every training step")
            scores = phase.evaluate()
            self._check_weights(phase)  # before this epoch is called the best
            best = self.stopping.best_value, self.stopping.best_epoch
            verdict = self._decide(scores)
            row = self._complete_epoch(phase, sums, scores)
            if not self._save(is_best=verdict.is_best) and verdict.is_best:
                self.stopping.best_is_still(*best)
                self._name_best(row)
            self._recorder.epoch(row)

    def _has_work(self, number: int) -> bool:
        return self._run.epochs(number) > 0 and not (number == self.progress.phase and self._finished(number))

    def _finished(self, number: int) -> bool:
        begun = self.progress.epoch > 0  # patience used up in the phase before does not end this one
        return self.progress.epoch >= self._run.epochs(number) or (begun and self.stopping.exhausted)

    def _enter(self, number: int) -> Phase:
        """Build a phase on the best weights of the phase before it, or go on inside the one that was interrupted."""
        self._phase = None
        gc.collect()  # the last phase's loader processes and gradient hooks
        if self._restored is not None and self.progress.phase == number:
            phase = self._start(self._run, number, self._restored.state)
            phase.load_state_dict(self._restored.state)
            if self._run.group.is_first or phase.replicated:  # they are of all ranks: counted once
                phase.stepper.sums.copy_(torch.tensor(self.progress.sums, dtype=torch.float64))
            if phase.stepper.skipping is not None:
                phase.stepper.skipping.counts.copy_(torch.tensor(self.progress.skipped, dtype=torch.float64))
        else:
            if best := self._checkpoints.load_best():
                phases.load_weights(self._run, *best)
            progress = self.progress
            self.progress = Progress(
                phase=number, step=progress.step, epochs_before=progress.total_epochs, history=progress.history
            )
            self.stopping.enter_phase()
            if number == phases.HEAD:
                self._checkpoints.save_base(self._run.model.state_dict())
            phase = self._start(self._run, number)
        self._restored = None
        self._phase = phase
        return phase

    def _train_epoch(self, phase: Phase) -> None:
        """Every photo once, in the epoch's order, from where the epoch was left. Raises StopRequested and NonFiniteLoss."""
        progress = self.progress
        size = len(phase.batches)
        on_cpu = self._run.group.device.type == "cpu"
        finite = True
        phase.set_mode()
        self._clock = clock = EpochClock()
        before = abandon.Buffers(self._run.model) if self._run.may_abandon and not phase.replicated else None
        batches = phase.batches.epoch(progress.epoch, progress.samples) if progress.samples < size else iter(())
        title = f"{phase.name} {progress.epoch + 1}/{phase.epochs}"
        with self._recorder.bar(title, size, progress.samples) as bar, self._run.leaving(self._run.model):
            while progress.samples < size:
                self._act(self._run.agreement.poll(finite=finite))
                with clock.waiting():
                    batch = next(batches)
                loss = self._step(phase, batch, before)
                if phase.average is not None:
                    phase.average.update_parameters(phase.learned)
                progress.samples += batch.total
                progress.phase_step += 1
                progress.step += 1
                clock.photos += batch.total
                bar.update(batch.total)
                if on_cpu or progress.step % _LOOK_AT_LOSS_EVERY == 0:
                    finite = nonfinite.is_well(loss, phase.stepper.skipping)
        clock.stop(phase.stepper.clock.take_seconds())

    def _step(self, phase: Phase, batch: Batch, before: abandon.Buffers | None) -> Tensor:
        """The loss. Raises StopRequested from its middle, with everything as `before` it, where the run may be left there."""
        if before is not None:
            before.keep()
        try:
            return phase.stepper.step(batch, self._rate(phase, self.progress.phase_step), self.progress.step)
        except StopRequested:
            if before is not None:
                before.put_back()
            raise

    def _rate(self, phase: Phase, step: int) -> float:
        config = self._run.config
        return learning_rate(config, step, phase.epochs * math.ceil(len(phase.batches) / config.batch_size))

    def _act(self, signal: Signal) -> None:
        """On what all ranks agreed, at the same step on all of them."""
        if signal is Signal.STOP:
            raise StopRequested
        if signal is Signal.NON_FINITE:
            raise self._non_finite("the training loss" if self._run.config.stop_on_nonfinite else nonfinite.IN_A_ROW)
        if signal is Signal.CHECKPOINT:
            self._save(is_best=False)

    def _decide(self, scores: Scores) -> Verdict:
        """Rank 0's number is broadcast and goes through the same pure state machine on every rank."""
        value = self._run.group.broadcast(scores.loss)
        verdict = self.stopping.update(value, self.progress.total_epochs + 1)
        if not math.isfinite(value) and self._run.config.stop_on_nonfinite:
            raise self._non_finite("the validation loss")
        return verdict

    def _complete_epoch(self, phase: Phase, sums: list[float], scores: Scores) -> Row:
        """Move on to the next epoch; returns the metric line of the one that ended."""
        rate = self._rate(phase, self.progress.phase_step - 1)
        row = self.progress.complete_epoch(
            phase.name, self._run.group.world_size, sums, scores, learning_rate=rate, clock=self._clock
        )
        self._name_best(row)
        phase.stepper.sums.zero_()
        if phase.stepper.skipping is not None:
            row["skipped_steps"] = phase.stepper.skipping.complete_epoch()
        return row

    def _name_best(self, row: Row) -> None:
        self.progress.name_best(row, self.stopping.best_value, self.stopping.best_epoch)

    def _sums(self, phase: Phase) -> list[float]:
        """(loss, right, photos) of the running epoch over all ranks. Raises NonFiniteLoss, on every rank."""
        sums = phase.stepper.sums.cpu() if phase.replicated else self._run.group.sum(phase.stepper.sums)
        loss = self._run.group.broadcast(float(sums[0]))
        if not math.isfinite(loss):
            raise self._non_finite("the training loss")
        return [loss, float(sums[1]), float(sums[2])]

    def _save(self, *, is_best: bool) -> bool:
        """A checkpoint of this very moment, on every rank together; False where the disk refuses.

        Weights that are not finite are never saved, though the loss that would show it is yet to come: NonFiniteLoss.
        """
        if self._phase is None:
            return True
        self.progress.sums = self._sums(self._phase)
        if self._phase.stepper.skipping is not None:
            self.progress.skipped = self._phase.stepper.skipping.counts.tolist()
        self._check_weights(self._phase)
        state = {
            **self._phase.state_dict(),
            "progress": asdict(self.progress),
            "stopping": self.stopping.state_dict(),
            "facts": dict(self.facts),
        }
        on_base = self._phase.number == phases.HEAD
        saved = self._checkpoints.save(state, self.progress.step, is_best=is_best, on_base=on_base)
        self._run.agreement.saved()
        return saved

    def _check_weights(self, phase: Phase) -> None:
        """Raises NonFiniteLoss, on every rank, for what rank 0 would save."""
        learned = [tensor for tensor in phase.learned.state_dict().values() if tensor.is_floating_point()]
        if not self._run.group.broadcast(float(torch.stack([tensor.isfinite().all() for tensor in learned]).all())):
            raise self._non_finite("a weight")

    def _interrupted(self) -> Interrupted:
        saved = self._save(is_best=False)
        phase = self._phase.name if self._phase is not None else None
        return interrupted(self.progress, phase, saved=saved, committed=self._checkpoints.committed)

    def _non_finite(self, what: str) -> NonFiniteLoss:
        skipping = not self._run.config.stop_on_nonfinite
        return nonfinite.error(what, self.progress, self.stopping, skipping=skipping)
