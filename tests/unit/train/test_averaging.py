import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from containers.train.averaging import MovingAverage
from tests.support.training import same


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_it_is_torchs_average_bit_by_bit_but_for_counts():
    """Which torch averages too, and cuts to whole numbers: batch norm counted 1 batch then, of any number."""
    model = net()
    ours = MovingAverage(model, 0.9)
    follow = get_ema_multi_avg_fn(0.9)
    torchs = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
        for average in (ours, torchs):
            average.update_parameters(model)
    mine, theirs = ours.state_dict(), torchs.state_dict()
    assert mine.pop("module.1.num_batches_tracked") == 4
    assert theirs.pop("module.1.num_batches_tracked") == 1
    assert same(mine, theirs)
    assert mine["n_averaged"] == 4
    assert not torch.equal(mine["module.3.weight"], model[3].weight)


def test_the_first_update_takes_the_weights_over():
    model = net()
    average = MovingAverage(model, 0.999)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_parameters(model)
    assert same(average.module.state_dict(), model.state_dict())


@pytest.mark.parametrize("updates", [0, 2])
def test_it_goes_on_from_a_checkpoint(updates):
    model, average = net(), MovingAverage(net(), 0.5)
    for _ in range(updates):
        average.update_parameters(model)
    again = MovingAverage(net(), 0.5)
    again.load_state_dict(average.state_dict())
    with torch.no_grad():
        model[3].weight.mul_(3)
    for each in (average, again):
        each.update_parameters(model)
    assert same(again.state_dict(), average.state_dict())
