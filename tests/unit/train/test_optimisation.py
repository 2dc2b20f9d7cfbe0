import math
import time

import pytest
import torch
from torch import nn

from containers.train.data import Batch
from containers.train.optimisation import class_weights, learning_rate, make_optimizer
from tests.support.training import in_ranks, same
from tests.unit.train.steps import batch, config, net, stepper


def test_the_rate_rises_then_falls_along_a_cosine():
    chosen = config(learning_rate=1.0, warmup_fraction=0.2)
    rates = [learning_rate(chosen, step, 100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert max(rates) == rates[20] == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert 0 < rates[-1] < 0.001


def test_weights_decay_and_biases_and_norms_do_not_and_the_backbone_learns_slower():
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    groups = make_optimizer(module, config(backbone_lr_factor=0.1, weight_decay=0.05), "2.").param_groups
    found = {(group["factor"], group["weight_decay"]): sum(p.numel() for p in group["params"]) for group in groups}
    assert found == {(0.1, 0.05): 30, (0.1, 0.0): 6 + 12, (1.0, 0.05): 18, (1.0, 0.0): 3}


@pytest.mark.parametrize("micro", [1, 2, 3, 8])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro):
    whole, parts = net(), net()
    for module, size in ((whole, 0), (parts, micro)):
        stepper(module, micro_batch_size=size, optimizer="sgd", momentum=0).step(batch(), 0.1, 0)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("count", [8, 5, 1])
def test_ranks_together_make_the_step_that_one_makes_alone(count):
    """Also where a rank has fewer photos in the last step, or none."""
    alone = net()
    stepper(alone, optimizer="sgd", momentum=0).step(batch(count), 0.1, 0)

    def body(group):
        module, whole = net(), batch(count)
        mine = list(range(group.rank, count, group.world_size))
        taken = mine or [0]
        part = Batch(whole.images[taken], whole.labels[taken], len(mine), count)
        steps = stepper(module, group, optimizer="sgd", momentum=0)
        steps.step(part, 0.1, 0)
        return module.state_dict(), group.sum(steps.sums)[2].item()

    for found, photos in in_ranks(3, body):
        assert photos == count
        assert all(torch.allclose(found[name], value, atol=1e-7) for name, value in alone.state_dict().items())


def test_computing_is_not_taken_for_waiting_where_a_step_has_several_parts():
    def body(group):
        module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        steps = stepper(module, group, micro_batch_size=1)
        slow = module[1].register_forward_hook(lambda *_: time.sleep(0.6))  # the same on both: nobody waits
        group.barrier()
        steps.step(batch(5), 0.1, 0)
        slow.remove()
        return steps.clock.take_seconds()

    assert max(in_ranks(2, body)) < 1.5  # of three seconds that were computed: a busy machine lets one of them wait a little


def test_the_gradient_is_clipped_after_it_is_unscaled():
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    stepper(
        module, clip_grad_norm=1e-3, optimizer="sgd", momentum=0, weight_decay=0, backbone_lr_factor=1, amp=torch.float16
    ).step(batch(), 1.0, 0)
    moved = math.sqrt(sum(float((value - before[name]).square().sum()) for name, value in module.state_dict().items()))
    assert moved == pytest.approx(1e-3, rel=0.01)


def test_the_scaler_goes_on_where_it_was():
    first, second = stepper(net(), amp=torch.float16), stepper(net(), amp=torch.float16)
    for number in range(3):
        first.step(batch(), 0.1, number)
    second.scaler.load_state_dict(first.scaler.state_dict())
    assert second.scaler.state_dict() == first.scaler.state_dict()
    assert first.scaler.state_dict()["_growth_tracker"] == 3


def test_class_weights_give_every_class_the_same_say_and_average_1():
    labels = torch.tensor([0] * 6 + [1] * 2 + [3] * 4)
    weights = class_weights(labels, 4)
    says = torch.bincount(labels, minlength=4) * weights
    assert torch.allclose(says[[0, 1, 3]], torch.full((3,), 4.0))
    assert weights[labels].mean().item() == pytest.approx(1)
    assert weights[2] == 0


def test_dropout_depends_on_the_step_and_not_on_what_was_drawn_before():
    def trained(disturb):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 3))
        steps = stepper(module)
        for number in range(3):
            torch.rand(disturb)
            steps.step(batch(), 0.1, number)
        return module.state_dict()

    assert same(trained(1), trained(100))


def test_a_photo_that_is_alone_where_two_are_needed_counts_once():
    """Without batch norm the photo again changes nothing; with it, one photo alone would be an error."""
    one, two = stepper(net(), optimizer="sgd"), stepper(net(), optimizer="sgd")
    two._least = 2
    single = Batch(batch().images[:1], batch().labels[:1], 1, 1)
    losses = [float(each.step(single, 0.1, 0)) for each in (one, two)]
    assert losses[0] == pytest.approx(losses[1])
    assert two.sums.tolist()[2] == 1
    for mine, others in zip(one._parameters, two._parameters, strict=True):
        assert torch.allclose(mine, others, atol=1e-6)
