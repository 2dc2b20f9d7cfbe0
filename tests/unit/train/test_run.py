import pytest
import torch

from containers.core.accelerator import Accelerator
from containers.core.errors import ConfigError
from containers.train.config import TrainConfig
from containers.train.distributed import Group
from containers.train.run import agreed_precision, largest_batch
from tests.support.training import in_ranks

T4 = Accelerator(device=torch.device("cpu"), name="T4", amp_dtype=torch.float16)
A10G = Accelerator(device=torch.device("cpu"), name="A10G", amp_dtype=torch.bfloat16)


def test_alone_a_gpu_takes_its_own_precision_or_the_one_chosen():
    assert agreed_precision("auto", A10G, Group.alone()) is torch.bfloat16
    assert agreed_precision("fp16", A10G, Group.alone()) is torch.float16
    assert agreed_precision("fp32", A10G, Group.alone()) is None


@pytest.mark.parametrize(("batch_size", "world_size", "largest"), [(256, 2, 128), (16, 1, 64), (257, 4, 65)])
def test_shared_memory_must_hold_batches_of_evaluation_too(batch_size, world_size, largest):
    group = Group(0, world_size, 0, torch.device("cpu"))
    assert largest_batch(TrainConfig(batch_size=batch_size), group) == largest


def test_ranks_on_different_gpus_never_mix_precisions():
    def body(group):
        device = (T4, A10G)[group.rank]
        with pytest.raises(ConfigError, match=r"A10G, T4.*set precision"):
            agreed_precision("auto", device, group)
        return agreed_precision("fp16", device, group)

    assert in_ranks(2, body) == [torch.float16, torch.float16]
