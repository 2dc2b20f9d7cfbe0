"""Memory that runs out where fewer photos at once would give none back."""

import pytest
import torch
from torch.optim import AdamW

from containers.core import architectures
from containers.train import averaging, failure, memory, optimisation, worker
from containers.train.config import TrainConfig
from tests.support.training import Workers, newest, train
from tests.unit.train.killed import EVERY_STEP, killed_after_checkpoint

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def full(*_, **__):
    raise FULL


def full_at(place):
    """A rank whose GPU has no memory left there. It is a forked process of its own."""

    def main(job_file):
        if place == "average":
            averaging.MovingAverage.__init__ = full
        elif place == "optimizer":
            AdamW.step = full  # which makes its state when it is first called
        else:
            AdamW.load_state_dict = full
        return worker.main(job_file)

    return main


def told(workers):
    """As the launcher reads it, and SageMaker shows it."""
    return failure.of_process(4, workers.errors[0]).text()


@pytest.mark.parametrize(
    ("place", "frame", "less"),
    [
        ("optimizer", "optimisation.py", "a smaller architecture or optimizer sgd ("),
        ("average", "phases.py", "a smaller architecture or optimizer sgd or ema_decay 0 ("),
    ],
)
def test_no_memory_for_what_is_kept_of_each_weight_is_said_with_what_helps(job, place, frame, less):
    workers = train(job(head_epochs=0, ema_decay=0.9 if place == "average" else 0), expect=4, main=full_at(place))
    text = told(workers)
    assert text.startswith("AcceleratorError: out of memory on the GPU for what no batch_size changes: mobilenet_v3_small's")
    assert "nvidia-smi" in text
    assert f"another run, with {less}{FULL}) [rank 0" in text
    assert "micro_batch_size" not in text
    assert f"  {frame}:" in text.partition("\n")[2]


def test_a_state_that_does_not_fit_the_device_again_loses_nothing(job):
    again = job(checkpoint_every_seconds=EVERY_STEP)
    train(again, main=killed_after_checkpoint(8), expect=-9)
    text = told(train(again, expect=4, main=full_at("restoring")))
    assert text.startswith("AcceleratorError: out of memory on the GPU for what no batch_size changes")
    assert "the job then goes on from its checkpoint" in text
    assert newest(again)["progress"]["step"] == 8
    train(again)


def test_ranks_of_which_one_is_full_end_with_its_reason(job):
    def main(job_file):
        step = optimisation.Stepper.step

        def filling(self, batch, rate, number):
            if self._group.rank == 1 and number == 7:
                self.optimizer.step = full
            return step(self, batch, rate, number)

        optimisation.Stepper.step = filling
        return worker.main(job_file)

    workers = Workers(job(), 2, main)
    workers.wait()
    causes = [failure.of_process(1, file, rank=rank) for rank, file in enumerate(workers.errors)]
    assert failure.root_cause(causes).headline.startswith("AcceleratorError: out of memory on the GPU")
    assert failure.root_cause(causes).rank == 1


HOSTS = [
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("Caught RuntimeError in pin memory thread for device 0.\nOriginal Traceback\nCUDA error: out of memory"),
]


@pytest.mark.parametrize("error", HOSTS, ids=lambda error: str(error)[:20] or "MemoryError")
def test_the_hosts_memory_has_another_remedy(error):
    text = str(memory.ran_out(error, TrainConfig()))
    assert "num_workers to 0" in text
    assert "nvidia-smi" not in text


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), OSError(28, "No space left on device")]
)
def test_what_is_not_about_memory_stays_what_it_is(error):
    assert memory.ran_out(error, TrainConfig()) is None


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd"}, {"ema_decay": 0.9}])
def test_what_is_said_to_be_held_is_what_is_held(settings):
    config = TrainConfig(architecture="mobilenet_v3_small", **settings)
    model = architectures.build(config.architecture, 1)
    optimizer = optimisation.make_optimizer(model, config, "")
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if value.ndim > 0]
    average = [averaging.MovingAverage(model, 0.9).module] if config.ema_decay else []
    parameters = [each for module in (model, *average) for each in module.parameters()]
    gradients = [each.grad for each in model.parameters()]
    bytes_held = sum(each.numel() * each.element_size() for each in [*kept, *parameters, *gradients])
    assert memory.held(config) == pytest.approx(bytes_held, rel=0.01)
