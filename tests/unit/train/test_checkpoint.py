import os
import shutil

import pytest
import torch

from containers.train.checkpoint import LATEST, Checkpoints
from containers.train.distributed import Group
from containers.train.errors import TrainingError
from tests.support.full_disk import files_of_at_most
from tests.support.training import _FORK, in_ranks, same
from tests.unit.train.saved import names, restored, saved, state


def test_what_was_saved_is_restored_with_the_best_and_the_base(tmp_path):
    checkpoints = Checkpoints(tmp_path, Group.alone())
    checkpoints.save_base({"backbone": torch.arange(3)})
    for number in range(4):
        checkpoints.save(state(number), number, is_best=number == 1, on_base=True)
    again = Checkpoints(tmp_path, Group.alone())
    found = again.restore()
    assert (found.state["number"], again.load_best()[0]["number"]) == (3, 1)
    assert same(found.base, {"backbone": torch.arange(3)})
    best, base = checkpoints.load_best()
    assert best["number"] == 1
    assert same(base, found.base)
    assert same(checkpoints.read_best(), (best, base))


def test_the_best_that_was_read_stays_whole_when_its_file_is_deleted(tmp_path):
    checkpoints = saved(tmp_path, 1, best={0})
    best, base = checkpoints.read_best()
    checkpoints.save(state(1), 1, is_best=True)
    checkpoints.save(state(2), 2)
    checkpoints.save(state(3), 3)
    assert not list(tmp_path.glob("checkpoint-00000000-*"))
    assert same(best["model"], state(0)["model"])
    assert base is None


def test_before_the_first_evaluation_there_is_no_best(tmp_path):
    checkpoints = saved(tmp_path, 1)
    assert (checkpoints.read_best(), checkpoints.load_best()) == (None, None)


def test_nothing_there_is_nothing_restored(tmp_path):
    assert Checkpoints(tmp_path / "new", Group.alone()).restore() is None


def test_the_last_two_and_the_best_are_kept_and_nothing_else(tmp_path):
    saved(tmp_path, 6, best={1})
    assert [name[:19] for name in names(tmp_path)] == [f"checkpoint-{n:08d}" for n in (1, 4, 5)] + [LATEST]
    again = Checkpoints(tmp_path, Group.alone())
    again.restore()
    again.save(state(6), 6)
    assert [name[:19] for name in names(tmp_path)] == [f"checkpoint-{n:08d}" for n in (1, 5, 6)] + [LATEST]


def test_a_best_that_nothing_refers_to_any_more_is_pruned(tmp_path):
    saved(tmp_path, 5, best={0, 2})
    assert [name[:19] for name in names(tmp_path)] == [f"checkpoint-{n:08d}" for n in (2, 3, 4)] + [LATEST]


def test_a_base_is_kept_as_long_as_a_checkpoint_or_its_best_needs_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, Group.alone())
    checkpoints.save_base({"backbone": torch.arange(3)})
    checkpoints.save(state(0), 0, is_best=True, on_base=True)
    for number in (1, 2, 3):
        checkpoints.save(state(number), number)
    assert same(checkpoints.load_best()[1], {"backbone": torch.arange(3)})
    again = Checkpoints(tmp_path, Group.alone())
    found = again.restore()
    assert (found.base, found.state["number"]) == (None, 3)
    again.save(state(4), 4)
    assert list(tmp_path.glob("base-*.pt"))
    for number in (5, 6):
        again.save(state(number), number, is_best=True)
    assert not list(tmp_path.glob("base-*.pt"))
    assert restored(tmp_path) == 6


COMMIT = ["write checkpoint", "sync checkpoint", "rename checkpoint", "write latest", "sync latest", "rename latest", "prune"]


@pytest.mark.parametrize("step", COMMIT)
def test_killed_before_any_step_of_the_commit_it_still_loads(tmp_path, step):
    saved(tmp_path, 2, best={0})

    def dying():
        def on_commit(now):
            if now.startswith(step):
                os._exit(9)

        checkpoints = Checkpoints(tmp_path, Group.alone(), on_commit)
        checkpoints.restore()
        checkpoints.save(state(2), 2)
        os._exit(0)

    process = _FORK.Process(target=dying)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    expected = 1 if COMMIT.index(step) <= COMMIT.index("rename latest") else 2
    assert restored(tmp_path) == expected
    assert all(name.startswith(".") or name == LATEST or name.endswith(".pt") for name in names(tmp_path))
    assert not list(tmp_path.glob(".*.tmp"))  # what was left over is removed by the next start


def test_a_disk_that_refuses_keeps_the_previous_checkpoint_and_the_run(tmp_path, caplog):
    """torch.save turns that into a RuntimeError."""
    checkpoints = saved(tmp_path, 2)
    before = names(tmp_path)
    with files_of_at_most(1 << 16):
        assert not checkpoints.save({"model": torch.zeros(1 << 20), "number": 2}, 2)
    assert "No space left" in caplog.records[-1].reason
    assert names(tmp_path) == before  # nothing half-written takes up room
    assert checkpoints.save(state(3), 3)
    assert restored(tmp_path) == 3


def test_a_disk_that_refuses_the_base_ends_every_rank_with_the_remedy(tmp_path):
    def body(group):
        checkpoints = Checkpoints(tmp_path, group)
        with (
            files_of_at_most(1 << 16),
            pytest.raises(TrainingError, match=f"no checkpoint can be written to {tmp_path}: make room"),
        ):
            checkpoints.save_base({"backbone": torch.zeros(1 << 20)})
        return names(tmp_path)

    assert in_ranks(2, body) == [[], []]


def test_every_rank_hears_that_the_disk_refused(tmp_path):
    def refuse(step):
        if step.startswith("write checkpoint"):
            raise OSError(28, "No space left on device")

    def body(group):
        ours = Checkpoints(tmp_path, group)
        refusing = Checkpoints(tmp_path, group, refuse)
        return ours.save(state(0), 0), refusing.save(state(1), 1)

    assert in_ranks(2, body) == [(True, False)] * 2


def test_ranks_with_disks_of_their_own_agree_on_the_newest_valid_state(tmp_path):
    saved(tmp_path / "0", 2, best={0})
    saved(tmp_path / "1", 4, best={1})

    def body(group):
        checkpoints = Checkpoints(tmp_path / str(group.rank), group)
        found = checkpoints.restore()
        return found.state["number"], checkpoints.load_best()[0]["number"]

    assert in_ranks(3, body) == [(3, 1)] * 3
    assert list((tmp_path / "0").glob("checkpoint-00000003-*"))
    assert not list((tmp_path / "2").iterdir())  # only rank 0 prunes, so only rank 0 keeps what it was sent


def test_a_rank_whose_own_copy_is_damaged_takes_the_one_of_another(tmp_path):
    saved(tmp_path / "0", 2)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    newest = next((tmp_path / "0").glob("checkpoint-00000001-*"))
    good = newest.read_bytes()
    newest.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # of the same size

    assert in_ranks(2, lambda group: Checkpoints(tmp_path / str(group.rank), group).restore().state["number"]) == [1, 1]
    assert newest.read_bytes() == good
