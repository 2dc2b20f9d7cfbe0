"""What ends, or does not end, a job on the GPU: a full memory, and an error that CUDA reports late."""

import pytest

from tests.gpu.train.forked import Rank
from tests.support import training

BATCH = 32
LARGE = {"image_size": 224, "batch_size": BATCH, "precision": "fp32", "deterministic": False}
HALVED = "out of memory: going on with smaller micro-batches (set micro_batch_size to skip this)"
FULL = """
import json, torch

torch.cuda.set_per_process_memory_fraction(640 * 2**20 / torch.cuda.get_device_properties(0).total_memory)
emptied = torch.cuda.empty_cache

def empty():
    emptied()
    left = torch.cuda.memory_reserved()
    print(json.dumps({"event": "emptied", "reserved": left, "allocated": torch.cuda.memory_allocated()}), flush=True)

torch.cuda.empty_cache = empty
"""
"""640 MiB are room for ResNet-18, its gradients and moments, and the maps of some photos at 224 pixels."""


@pytest.fixture
def job(tmp_path, index, gpu):
    def make(**settings):
        small = {"architecture": "resnet18", "head_epochs": 0, "epochs": 1, **settings}
        made = training.make_job(tmp_path, index, **small).model_copy(update={"device": gpu.type})
        made.write()
        return made

    return make


def test_a_full_gpu_gives_its_memory_back_and_goes_on_with_fewer_photos_at_once(job):
    rank = Rank(job(**LARGE), FULL).end()
    halved = rank.logged(HALVED)
    assert (halved[0]["was"], halved[0]["now"], halved[0]["batch_size"]) == (BATCH, BATCH // 2, BATCH)
    assert [line["was"] for line in halved[1:]] == [line["now"] for line in halved[:-1]]
    emptied = rank.logged("emptied")
    assert len(emptied) >= len(halved)
    assert max(line["allocated"] for line in emptied) < 256 * 2**20, emptied  # weights, moments, photos, cuBLAS
    assert max(line["reserved"] for line in emptied) < 384 * 2**20, emptied  # of 640, in blocks that hold some of these
    (epoch,) = rank.logged("epoch")
    assert epoch["train_loss"] > 0


def test_a_full_gpu_is_an_error_that_names_the_next_size_where_the_user_chose_one(job):
    rank = Rank(job(**LARGE, micro_batch_size=BATCH), FULL).end(expect=4)
    assert rank.failure.startswith(
        f"AcceleratorError: out of memory with {BATCH} photos at once (batch_size {BATCH}, {BATCH} per rank): "
        f"set micro_batch_size to {BATCH // 2}; the result stays the same but for batch norm ("
    )
    assert "[rank 0" in rank.failure
    assert not rank.logged("epoch")


ASSERTS = """
from containers.train import optimisation

gradients, steps = optimisation.Stepper._gradients, []

def wrong(self, images, labels, batch, seed):
    steps.append(seed)
    return gradients(self, images, labels + 1000 * (len(steps) > 2), batch, seed)

optimisation.Stepper._gradients = wrong
"""


def test_an_assertion_that_fails_on_the_gpu_is_named_in_the_failure_file(job):
    """CUDA says so at some later call, and every call after that fails as well: the first one is the cause."""
    rank = Rank(job(batch_size=8), ASSERTS).end(expect=1)
    assert rank.failure.startswith("AcceleratorError: CUDA error: device-side assert triggered"), rank.failure
    assert "[rank 0" in rank.failure
    assert len(rank.failure.encode()) <= 1024
