"""Two runs on one checkpoint directory, as real processes."""

import contextlib
import os
import signal
import time

import pytest

from containers.core.errors import ConfigError
from containers.train import lock
from containers.train.checkpoint import Checkpoints
from containers.train.distributed import Group
from containers.train.errors import NotBegun
from tests.support.training import _FORK


@contextlib.contextmanager
def another_run(directory, loader=False):
    """A process that holds the lock; with `loader`, one that has forked another, which lives on."""
    held, children = _FORK.Event(), _FORK.SimpleQueue()

    def run():
        checkpoints = Checkpoints(directory, Group.alone())
        if loader:
            child = os.fork()
            if child == 0:
                time.sleep(600)
            children.put(child)
        held.set()
        time.sleep(600)
        del checkpoints

    process = _FORK.Process(target=run)
    process.start()
    try:
        assert held.wait(60)
        yield process
    finally:
        process.kill()
        process.join()
        if loader:
            os.kill(children.get(), signal.SIGKILL)


def test_a_run_that_does_not_end_is_named_and_nothing_of_it_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.5)
    with another_run(tmp_path):
        (tmp_path / ".checkpoint-00000000.tmp").touch()  # what the other is writing
        with pytest.raises(ConfigError, match=f"another run writes to {tmp_path}: end it"):
            Checkpoints(tmp_path, Group.alone())
        assert (tmp_path / ".checkpoint-00000000.tmp").exists()


@pytest.mark.parametrize("loader", [False, True])
def test_a_run_that_is_ending_is_waited_for(tmp_path, caplog, loader):
    with another_run(tmp_path, loader) as other:

        def asked() -> bool:
            """The lock was found held."""
            other.kill()
            return False

        assert Checkpoints(tmp_path, Group.alone(), asked=asked).restore() is None
    assert caplog.messages == ["waiting for another run that writes here"]


def test_a_lock_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / lock.LOCK_FILE).mkdir()
    with pytest.raises(ConfigError, match=r"\.lock cannot be written \(Is a directory\): let this user write there"):
        Checkpoints(tmp_path, Group.alone())


def test_a_stop_is_heard_while_another_run_is_waited_for(tmp_path):
    with another_run(tmp_path), pytest.raises(NotBegun):
        Checkpoints(tmp_path, Group.alone(), asked=lambda: True)


def test_only_rank_0_locks_and_only_as_long_as_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.5)
    Checkpoints(tmp_path, Group.alone())
    with another_run(tmp_path):
        Checkpoints(tmp_path, Group(1, 2, 0, Group.alone().device))
