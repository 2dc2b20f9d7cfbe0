"""Whole runs in real processes: what happens when, and that a disturbed run ends bitwise like an undisturbed one."""

import pytest
import torch
from safetensors.torch import load_file

from containers.core import manifest
from tests.support.training import Workers, events, learned, newest, same, train

EVERY_STEP = 1e-9  # seconds: a checkpoint at every step


def weights(job):
    return load_file(job.paths.model_dir / manifest.WEIGHTS_FILE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, index):
    """Run once, compared with often."""
    from tests.support.training import make_job

    torch.set_num_threads(1)
    job = make_job(tmp_path_factory.mktemp("undisturbed"), index)
    train(job)
    return job


def until_checkpoint(workers, job, serial):
    import time

    deadline = time.monotonic() + 200
    while not any(int(path.name.split("-")[1]) >= serial for path in job.paths.checkpoint_dir.glob("checkpoint-*.pt")):
        assert time.monotonic() < deadline
        assert workers.processes[0].is_alive(), workers.text()
        time.sleep(0.005)


@pytest.mark.parametrize(("serial", "before", "after"), [(2, 0, 0), (9, 0, 2), (12, 2, 0)])
def test_killed_at_any_step_and_resumed_it_is_bitwise_the_undisturbed_run(job, undisturbed, serial, before, after):
    first = job(num_workers=before, checkpoint_every_seconds=EVERY_STEP)
    workers = Workers(first)
    until_checkpoint(workers, first, serial)
    workers.kill()
    resumed = train(job(num_workers=after))
    assert events(resumed, "resumed")
    assert same(learned(first), learned(undisturbed))
    assert same(weights(first), weights(undisturbed))


def test_a_finished_run_started_again_trains_nothing_and_writes_the_same_model(undisturbed):
    before = (undisturbed.paths.model_dir / manifest.MANIFEST_FILE).read_bytes()
    state = newest(undisturbed)
    again = train(undisturbed)
    assert not events(again, "epoch")
    assert same(newest(undisturbed), state)
    assert (undisturbed.paths.model_dir / manifest.MANIFEST_FILE).read_bytes() == before
