import inspect
import itertools
import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest
import torch
from torch.utils.data import dataloader

from containers.core.preprocessing import PreprocessSpec, decode, prepare
from containers.train.config import TrainConfig
from containers.train.data import (
    LoaderPlan,
    PhotoBatches,
    _guarded,
    epoch_order,
    evaluation_batches,
    plan_loader,
    step_parts,
)
from containers.train.distributed import Group
from containers.train.errors import DataError, WorkerFailed
from containers.train.index import Photo
from tests.support.training import photo

SPEC = PreprocessSpec(resize=36, crop=32)
CONFIG = TrainConfig(batch_size=8, augmentation="randaugment", num_workers=0)


def group(rank=0, world_size=1):
    return Group(rank, world_size, rank, torch.device("cpu"))


def batches(index, workers=0, pipe=False, rank=0, world=1, epoch=0, position=0, config=CONFIG):
    source = PhotoBatches(index.splits["train"], SPEC, config, group(rank, world), LoaderPlan(workers, pipe), 1)
    return list(source.epoch(epoch, position))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("position", [0, 8, 16])
def test_every_photo_comes_exactly_once_whatever_the_world_and_wherever_it_begins(world, position):
    order = epoch_order(CONFIG, torch.arange(22) % 2, 1, 3)
    seen = [index for rank in range(world) for part, _ in step_parts(order, position, 8, rank, world) for index in part]
    assert sorted(seen) == sorted(order[position:].tolist())
    steps = [list(step_parts(order, position, 8, rank, world)) for rank in range(world)]
    assert {tuple(total for _, total in each) for each in steps} == {(8, 8, 6)[position // 8 :]}


def test_the_order_depends_on_seed_phase_and_epoch():
    labels = torch.arange(50) % 2
    orders = [epoch_order(CONFIG.model_copy(update={"seed": s}), labels, p, e) for s, p, e in
              [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]]  # fmt: skip
    assert torch.equal(orders[0], orders[4])
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_the_balanced_sampler_draws_classes_equally():
    config = CONFIG.model_copy(update={"class_balance": "sampler"})
    labels = torch.tensor([0] * 900 + [1] * 100)
    drawn = labels[epoch_order(config, labels, 1, 0)]
    assert abs(float(drawn.double().mean()) - 0.5) < 0.05


def test_a_photo_that_is_drawn_again_is_another_picture(index):
    config = CONFIG.model_copy(update={"class_balance": "sampler"})
    images = torch.cat([batch.images for batch in batches(index, config=config)])
    order = epoch_order(config, torch.tensor([photo.label for photo in index.splits["train"]]), 1, 0)
    first, again = next(pair for pair in itertools.combinations(range(len(order)), 2) if order[pair[0]] == order[pair[1]])
    assert not torch.equal(images[first], images[again])


@pytest.mark.parametrize(("workers", "pipe"), [(1, False), (2, False), (2, True)])
def test_batches_are_the_same_bits_for_any_number_of_workers_and_any_start(index, workers, pipe):
    torch.rand(3)
    alone, many = batches(index), batches(index, workers, pipe)
    assert [(b.local, b.total) for b in alone] == [(8, 8), (8, 8), (6, 6)]
    for one, other in zip(alone, many, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    late = batches(index, workers, pipe, position=8)
    assert torch.equal(late[0].images, alone[1].images)
    assert not torch.equal(batches(index, epoch=1)[0].images, alone[0].images)


def test_ranks_share_the_steps_of_one_and_see_the_same_augmentations(index):
    whole, parts = batches(index), [batches(index, rank=rank, world=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        for rank in range(3):
            assert torch.equal(parts[rank][step].images, batch.images[rank::3])


def test_a_rank_without_photos_in_the_last_step_gets_one_that_counts_nothing(index):
    few = index.model_copy(update={"splits": {"train": index.splits["train"][:9]}})
    last = batches(few, rank=1, world=2)[-1]
    assert (len(last.images), last.local, last.total) == (1, 0, 1)


def test_evaluation_sees_what_serving_sees(index):
    photos = index.splits["valid"]
    found = list(evaluation_batches(photos, SPEC, [4, 0, 2], 2, LoaderPlan(1, False), group()))
    assert [len(labels) for _, labels in found] == [2, 1]
    expected = prepare(decode(photos[4].path.read_bytes(), SPEC), SPEC)
    assert (found[0][0][0].numpy() == expected).all()


def test_a_photo_that_vanished_is_named_also_from_a_loader_process(tmp_path):
    path = photo(tmp_path / "a.jpg", 0, 0)
    photos = [Photo(path=each, label=0, width=48, height=40, bytes=1) for each in (path, tmp_path / "gone.jpg")]
    for workers in (0, 1):
        source = PhotoBatches(photos, SPEC, CONFIG, group(), LoaderPlan(workers, False), 1)
        with pytest.raises(DataError, match=r"^\S*gone.jpg could be read at the start and cannot be now"):
            list(source.epoch(0, 0))


def test_a_killed_loader_process_is_a_named_error_and_not_a_hang(index):
    source = PhotoBatches(index.splits["train"], SPEC, CONFIG, group(), LoaderPlan(1, False), 1)
    running = source.epoch(0, 0)
    next(running)
    for process in source._loader._iterator._workers:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with pytest.raises(WorkerFailed, match=r"loads photos died.*num_workers=0"):
        list(running)


class Ending:
    """A loader whose batches end with an error."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield torch.zeros(1), torch.zeros(1)
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        RuntimeError("Pin memory thread exited unexpectedly"),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
    ids=str,
)
def test_a_dead_loader_is_named_however_torch_notices(error):
    with pytest.raises(WorkerFailed, match=r"loads photos died.*num_workers=0"):
        list(_guarded(Ending(error)))


def test_these_are_the_words_of_the_torch_that_is_installed():
    source = inspect.getsource(dataloader)
    assert "Pin memory thread exited unexpectedly" in source
    assert 'f"DataLoader worker (pid(s) {pids_str}) exited unexpectedly"' in source


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionResetError])
def test_an_error_inside_a_loader_is_not_its_death(kind):
    with pytest.raises(kind, match="mat1 and mat2"):
        list(_guarded(Ending(kind(f"Caught {kind.__name__} in DataLoader worker process 0.\nmat1 and mat2"))))


def signal_children(others: list[psutil.Process], seen: set[int], over: threading.Event) -> None:
    while not over.is_set():
        for child in set(psutil.Process().children()) - set(others):
            for number in (signal.SIGTERM, signal.SIGINT):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
            seen.add(child.pid)


def test_loader_processes_ignore_the_signals_that_stop_their_rank_from_their_first_moment_on(index):
    source = PhotoBatches(index.splits["train"], SPEC, CONFIG, group(), LoaderPlan(2, False), 1)
    seen, over = set(), threading.Event()
    stopping = threading.Thread(target=signal_children, args=(psutil.Process().children(), seen, over))
    stopping.start()
    try:
        assert len(list(source.epoch(0, 0))) == 3
        assert len(list(source.epoch(1, 0))) == 3
        while not {process.pid for process in source._loader._iterator._workers} <= seen:
            time.sleep(0.01)
    finally:
        over.set()
        stopping.join()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}  # ours still arrive


def test_small_shared_memory_is_noticed_and_batches_take_the_pipe(tmp_path, caplog):
    config = CONFIG.model_copy(update={"num_workers": 2})
    roomy = plan_loader(config, group(), 1000, ranks_here=1, shared_memory=tmp_path)
    assert roomy == LoaderPlan(2, pipe=False)
    huge = plan_loader(config, group(), 2**50, ranks_here=1, shared_memory=tmp_path)
    assert huge == LoaderPlan(2, pipe=True)
    assert "shared memory is small" in caplog.records[-1].getMessage()
    assert plan_loader(config, group(), 1, ranks_here=1, shared_memory=tmp_path / "missing").pipe
    assert plan_loader(CONFIG, group(), 2**50, ranks_here=1) == LoaderPlan(0, pipe=False)
