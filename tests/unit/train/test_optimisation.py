import math
import time

import pytest
import torch
from torch import nn

from containers.core.errors import AcceleratorError
from containers.train.config import TrainConfig
from containers.train.data import Batch
from containers.train.distributed import Group
from containers.train.optimisation import (
    CommunicationClock,
    Stepper,
    class_weights,
    learning_rate,
    make_optimizer,
    ranks_meet_in,
)
from tests.support.training import in_ranks, same


def config(**changes):
    return TrainConfig(**{"batch_size": 8, "clip_grad_norm": 0, "label_smoothing": 0, **changes})


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(count=8):
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(count, 5, generator=generator), torch.arange(count) % 3, count, count)


def stepper(module, group=None, amp=None, **changes):
    chosen = config(**changes)
    optimizer = make_optimizer(module, chosen, "2.")
    return Stepper(module, optimizer, chosen, group or Group.alone(), prepare=lambda x: x, amp_dtype=amp)


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


NO_ENGINE = RuntimeError("FIND was unable to find an engine to execute this computation")
"""As torch says it where every engine for a convolution has run out of memory."""
FULL = [torch.OutOfMemoryError("CUDA out of memory"), NO_ENGINE]


class _Small(nn.Module):
    """A device that holds `room` photos, and says `full` where there are more."""

    def __init__(self, room, full=FULL[0]):
        super().__init__()
        self.net, self.room, self.full, self.seen = net(), room, full, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.room:
            raise self.full
        return self.net(x)


@pytest.mark.parametrize("full", FULL, ids=str)
def test_a_full_gpu_halves_the_micro_batch_and_the_step_is_the_same(caplog, full):
    small, plain = _Small(3, full), net()
    steps = stepper(small, optimizer="sgd", momentum=0, backbone_lr_factor=1)
    steps.step(batch(), 0.1, 0)
    stepper(plain, optimizer="sgd", momentum=0, backbone_lr_factor=1).step(batch(), 0.1, 0)
    assert small.seen == [8, 4, 2, 2, 2, 2]
    assert [(record.was, record.now) for record in caplog.records] == [(8, 4), (4, 2)]
    for one, other in zip(small.net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
    small.seen.clear()
    steps.step(batch(), 0.1, 1)
    assert small.seen == [2, 2, 2, 2]


class _Refusing(nn.Module):
    """`net`, on a GPU that has no memory for the passes in `refused`, counted from 1."""

    def __init__(self, refused):
        super().__init__()
        self.net, self.refused, self.passes = net(), refused, 0

    def forward(self, images):
        self.passes += 1
        if self.passes in self.refused:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(images)


def test_a_rank_whose_gpu_is_full_tries_again_and_all_make_the_same_step():
    """The second step fails where a part of its gradient is there already, that peers have not heard of (no_sync)."""
    alone = _Refusing(())
    whole = stepper(alone, optimizer="sgd", momentum=0)
    for number in (0, 1):
        whole.step(batch(), 0.1, number)

    def body(group):
        module, everything = _Refusing((1, 5) if group.rank == 1 else ()), batch()
        mine = list(range(group.rank, 8, group.world_size))
        steps = stepper(module, group, optimizer="sgd", momentum=0)
        for number in (0, 1):
            steps.step(Batch(everything.images[mine], everything.labels[mine], 4, 8), 0.1, number)
        return module.state_dict(), module.passes, group.sum(steps.sums)[2].item()

    found = in_ranks(2, body)
    assert [passes for _, passes, _ in found] == [2, 1 + 2 + 2 + 4]
    for state, _, photos in found:
        assert photos == 16
        assert all(torch.allclose(state[name], value, atol=1e-7) for name, value in alone.state_dict().items())
    assert same(found[0][0], found[1][0])


@pytest.mark.parametrize(("room", "remedy"), [(3, "set micro_batch_size to 2;"), (0, "lower image_size")])
def test_where_the_size_was_chosen_or_one_photo_is_too_many_the_error_says_what_helps(room, remedy):
    wanted = rf"out of memory with \d photos at once \(batch_size 8.*{remedy}.*\(CUDA out of memory\)"
    with pytest.raises(AcceleratorError, match=wanted):
        stepper(_Small(room), micro_batch_size=4 if room else 0).step(batch(), 0.1, 0)


def test_an_error_that_is_not_about_memory_is_not_tried_again():
    small = _Small(3, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        stepper(small).step(batch(), 0.1, 0)
    assert small.seen == [8]


def test_ranks_meet_where_they_share_a_batch_norm():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert not ranks_meet_in(module)
    assert ranks_meet_in(nn.SyncBatchNorm.convert_sync_batchnorm(module))


class _Counted(nn.Module):
    """Stands where ranks would meet: a batch norm that they share is for GPUs only."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return x


@pytest.mark.parametrize(("count", "micro", "passes"), [(8, 0, 1), (5, 0, 1), (5, 2, 2), (7, 3, 2), (1, 4, 1)])
def test_ranks_that_meet_in_a_forward_pass_make_equally_many_of_them(count, micro, passes):
    """Also where one of them has a photo more than another, or none."""
    alone = net()
    stepper(alone, optimizer="sgd", momentum=0, backbone_lr_factor=1).step(batch(count), 0.1, 0)

    def body(group):
        first, tanh, last = net()
        module, whole = nn.Sequential(first, _Counted(), tanh, last), batch(count)
        mine = list(range(group.rank, count, group.world_size))
        taken = mine or [0]
        part = Batch(whole.images[taken], whole.labels[taken], len(mine), count)
        steps = stepper(module, group, optimizer="sgd", momentum=0, backbone_lr_factor=1, micro_batch_size=micro)
        steps._in_step = True
        steps.step(part, 0.1, 0)
        return module[1].passes, module[0].weight.detach(), group.sum(steps.sums)[2].item()

    for made, weight, photos in in_ranks(2, body):
        assert (made, photos) == (passes, count)
        assert torch.allclose(weight, alone[0].weight, atol=1e-7)


def test_ranks_that_meet_in_a_forward_pass_do_not_try_it_again():
    """A rank that made one more would meet its peers in the wrong place, and all would wait."""

    def body(group):
        small = _Small(3)
        steps = stepper(small, group)
        steps._in_step = True
        with pytest.raises(AcceleratorError, match="set micro_batch_size to 4"):
            steps.step(Batch(batch().images, batch().labels, 8, 16), 0.1, 0)
        return small.seen

    assert in_ranks(2, body) == [[8], [8]]


def test_the_time_of_an_epoch_holds_what_a_gpu_still_computes(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    gpu = torch.device("cuda", 1)
    assert CommunicationClock(gpu, compress=False).take_seconds() == 0
    assert CommunicationClock(torch.device("cpu"), compress=False).take_seconds() == 0
    assert waited == [gpu]


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
