"""A GPU that is full in the middle of a step, and ranks that must not try one again."""

import pytest
import torch
from torch import nn

from containers.core.errors import AcceleratorError
from containers.train.data import Batch
from containers.train.optimisation import ranks_meet_in
from tests.support.training import in_ranks, same
from tests.unit.train.steps import batch, net, stepper

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
