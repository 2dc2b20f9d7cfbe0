"""Work that is left in its middle: what was half done is as if it had not begun."""

import contextlib
import os
import signal

import pytest
import torch
from torch import nn

from containers.train import abandon, optimisation, run, worker
from containers.train.agreement import StopRequested
from tests.support.training import events, learned, make_job, newest, same, train

INTERRUPTED = 75
STEP = 7
"""Of 12; the second of the phase that trains every layer, so there are statistics to lose."""


class Net(nn.Module):
    """Notes which layers were computed, in which direction."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4))
        self.passed = []
        for name, layer in self.layers.named_children():
            layer.register_forward_hook(lambda *_, name=name: self.passed.append(f"forward {name}"))
            layer.weight.register_post_accumulate_grad_hook(lambda _, name=name: self.passed.append(f"backward {name}"))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("last", ["forward 0", "forward 2", "backward 3", "backward 2"])
def test_a_pass_ends_at_the_next_layer_with_weights(last):
    net = Net()
    with pytest.raises(StopRequested), abandon.between_layers(net, lambda: last in net.passed):
        net(torch.randn(3, 4)).sum().backward()
    after = net.passed[net.passed.index(last) + 1 :]
    assert after in ([], ["forward 1"])  # batch norm has no matrix of weights
    net.passed.clear()
    net(torch.randn(3, 4)).sum().backward()  # nobody looks any more
    assert len(net.passed) == 8


def test_nothing_is_asked_nothing_changes():
    net = Net()
    twin = Net()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(3, 4)
    with abandon.between_layers(net, lambda: False):
        net(x).sum().backward()
    twin(x).sum().backward()
    assert same(net.state_dict(), twin.state_dict())
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


def test_what_is_left_anywhere_has_its_buffers_as_they_were_and_what_ends_keeps_them():
    net = Net()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}

    @contextlib.contextmanager
    def asked():
        yield
        raise StopRequested

    with pytest.raises(StopRequested), abandon.anywhere(net, asked):
        net(torch.randn(3, 4))
    assert same(dict(net.named_buffers()), before)
    with abandon.anywhere(net, contextlib.nullcontext):
        net(torch.randn(3, 4))
    assert not same(dict(net.named_buffers()), before)


def test_buffers_of_what_trains_are_put_back():
    net = Net()
    buffers = abandon.Buffers(net)
    net(torch.randn(3, 4))
    buffers.keep()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.randn(3, 4))
    assert not same(net.state_dict(), before)
    buffers.put_back()
    assert same(net.state_dict(), before)


def asked_in(place, module):
    """SIGTERM to this very process, once, when `module` is half through its pass in that direction."""
    layer = module.features[3]
    once = []

    def ask(*_):
        if not once:
            once.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    if place == "backward":
        next(layer.parameters()).register_post_accumulate_grad_hook(ask)
    else:
        layer.register_forward_pre_hook(ask)


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_a_step_is_left_in_its_middle_and_resumed_bitwise(tmp_path, index, place):
    torch.set_num_threads(1)
    undisturbed, disturbed = make_job(tmp_path / "undisturbed", index), make_job(tmp_path / "disturbed", index)
    train(undisturbed)

    def main(job_file):
        step = optimisation.Stepper.step

        def asking(self, batch, rate, number):
            if number == STEP:
                asked_in(place, self._network)
            return step(self, batch, rate, number)

        optimisation.Stepper.step = asking  # in a forked process of its own
        return worker.main(job_file)

    train(disturbed, expect=INTERRUPTED, main=main)
    assert newest(disturbed)["progress"]["step"] == STEP, "the step that ran does not count"
    train(disturbed)
    assert same(learned(disturbed), learned(undisturbed))


def test_an_evaluation_is_left_in_the_middle_of_a_batch(tmp_path, index):
    torch.set_num_threads(1)
    job = make_job(tmp_path, index, head_epochs=0)

    def main(job_file):
        evaluate = run.Run.evaluate

        def asking(self, module, *arguments, **named):
            asked_in("forward", module)
            module.classifier.register_forward_pre_hook(lambda *_: print("to the end", flush=True))
            return evaluate(self, module, *arguments, **named)

        run.Run.evaluate = asking  # in a forked process of its own
        return worker.main(job_file)

    workers = train(job, expect=INTERRUPTED, main=main)
    assert "to the end" not in workers.text()
    assert not events(workers, "epoch")
    assert newest(job)["progress"]["samples"] == 22, "the epoch that was being evaluated is not lost"
