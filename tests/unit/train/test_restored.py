"""What a run goes on from where files are torn, altered or missing."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch

from containers.train.checkpoint import LATEST, Checkpoints
from containers.train.distributed import Group
from tests.support.training import in_ranks
from tests.unit.train.saved import damage, names, restored, saved, state


@pytest.mark.parametrize("seed", range(10))
def test_a_torn_or_altered_newest_file_is_rejected_by_name_and_the_one_before_used(tmp_path, caplog, seed):
    saved(tmp_path, 3)
    newest = tmp_path / json.loads((tmp_path / LATEST).read_text())["file"]
    data = bytearray(newest.read_bytes())
    place = random.Random(seed).randrange(len(data))
    if seed % 2:
        data[place] ^= 1 << seed % 8
    newest.write_bytes(data if seed % 2 else data[:place])
    assert restored(tmp_path) == 1
    rejected = [record for record in caplog.records if "rejected" in record.getMessage()]
    assert [record.file for record in rejected] == [newest.name]


@pytest.mark.parametrize(
    "damage",
    ["missing", "not json", '{"file": "../../etc/passwd"}', '{"file": "gone.pt"}', "[]", '{"file": null}', '{"file": [1]}'],
)
def test_without_a_usable_list_the_files_speak_for_themselves(tmp_path, damage):
    saved(tmp_path, 3)
    (tmp_path / LATEST).unlink()
    if damage != "missing":
        (tmp_path / LATEST).write_text(damage)
    assert restored(tmp_path) == 2


def test_a_torn_newest_file_that_was_a_new_best_leaves_the_one_before_with_its_own_best(tmp_path):
    saved(tmp_path, 3, best={0, 2})
    newest = next(tmp_path.glob("checkpoint-00000002-*"))
    newest.write_bytes(newest.read_bytes()[:100])
    again = Checkpoints(tmp_path, Group.alone())
    found = again.restore()
    assert (found.state["number"], again.load_best()[0]["number"]) == (1, 0)
    again.save(state(3), 3)
    assert newest.exists()  # what was rejected stays for whoever wants to know why
    assert again.load_best()[0]["number"] == 0


def test_the_next_that_is_torn_too_leaves_the_one_before_both(tmp_path, caplog):
    """The first was rejected and stays where it is; one save later the newest is torn again."""
    saved(tmp_path, 3)
    first = damage(tmp_path, 2)
    again = Checkpoints(tmp_path, Group.alone())
    assert again.restore().state["number"] == 1
    again.save(state(3), 3)
    del again
    second = damage(tmp_path, 3)
    caplog.clear()
    assert restored(tmp_path) == 1
    rejected = [record.file for record in caplog.records if "rejected" in record.getMessage()]
    assert rejected == [second.name, first.name]


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_lost_best_costs_the_best_and_not_the_run(tmp_path, caplog, how):
    """Both of the last two refer to it, and nothing older is there."""
    saved(tmp_path, 4, best={1})
    lost = damage(tmp_path, 1, how)
    again = Checkpoints(tmp_path, Group.alone())
    found = again.restore()
    assert (found.state["number"], found.best_lost, again.best_file, again.load_best()) == (3, True, None, None)
    said = [record for record in caplog.records if "best model so far is lost" in record.getMessage()]
    assert [(record.levelname, record.file) for record in said] == [("ERROR", found.file)]
    again.save(state(4), 4)
    again.save(state(5), 5, is_best=True)
    assert lost.exists() == (how == "altered")  # what was rejected stays for whoever wants to know why
    once_more = Checkpoints(tmp_path, Group.alone())
    assert (once_more.restore().best_lost, once_more.load_best()[0]["number"]) == (False, 5)


def test_an_older_checkpoint_that_has_its_best_comes_before_a_newer_one_that_lost_it(tmp_path):
    """S3 may hold more than the last two."""
    saved(tmp_path / "older", 1, best={0})
    saved(tmp_path, 5, best={0, 3})
    shutil.copytree(tmp_path / "older", tmp_path, dirs_exist_ok=True, ignore=lambda *_: [LATEST])
    damage(tmp_path, 3)
    again = Checkpoints(tmp_path, Group.alone())
    found = again.restore()
    assert (found.state["number"], found.best_lost, again.load_best()[0]["number"]) == (0, False, 0)


def test_a_base_that_only_the_best_needs_is_lost_with_the_best_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, Group.alone())
    checkpoints.save_base({"backbone": torch.arange(3)})
    checkpoints.save(state(0), 0, is_best=True, on_base=True)
    checkpoints.save(state(1), 1)
    next(tmp_path.glob("base-*.pt")).unlink()
    found = Checkpoints(tmp_path, Group.alone()).restore()
    assert (found.state["number"], found.best_lost) == (1, True)


def test_where_no_checkpoint_can_be_used_that_is_said_and_nothing_is_deleted(tmp_path, caplog):
    saved(tmp_path, 4, best={1})
    for number in (1, 2, 3):
        damage(tmp_path, number)
    left = set(names(tmp_path)) - {LATEST}
    again = Checkpoints(tmp_path, Group.alone())
    assert again.restore() is None
    assert [record.levelname for record in caplog.records if "training starts anew" in record.getMessage()] == ["ERROR"]
    for number in range(3):
        again.save(state(number), number)
    assert left <= set(names(tmp_path))
    assert restored(tmp_path) == 2


def test_an_empty_folder_is_no_reason_to_complain(tmp_path, caplog):
    assert restored(tmp_path) is None
    assert not caplog.records


def test_a_file_that_runs_code_when_unpickled_is_rejected(tmp_path):
    import hashlib

    class Evil:
        def __reduce__(self):
            return (os.system, ("true",))

    path = tmp_path / "x"
    torch.save({"schema": 1, "model": Evil()}, path)
    path.rename(tmp_path / f"checkpoint-00000000-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.pt")
    assert Checkpoints(tmp_path, Group.alone()).restore() is None


def test_ranks_prefer_a_state_that_has_its_best_to_one_that_lost_it(tmp_path):
    saved(tmp_path / "0", 4, best={1})
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    lost = damage(tmp_path / "0", 1)

    def body(group):
        checkpoints = Checkpoints(tmp_path / str(group.rank), group)
        found = checkpoints.restore()
        return found.state["number"], found.best_lost, checkpoints.load_best()[0]["number"]

    assert in_ranks(2, body) == [(3, False, 1)] * 2
    assert lost.read_bytes() == (tmp_path / "1" / lost.name).read_bytes()


def test_ranks_agree_that_the_best_is_lost(tmp_path):
    """Rank 0 gets the state from the only one that has it."""
    saved(tmp_path / "1", 4, best={1})
    damage(tmp_path / "1", 1)

    def body(group):
        checkpoints = Checkpoints(tmp_path / str(group.rank), group)
        found = checkpoints.restore()
        return found.state["number"], found.best_lost, found.state["best_file"], checkpoints.load_best()

    assert in_ranks(2, body) == [(3, True, None, None)] * 2
    assert [name[:19] for name in names(tmp_path / "0")] == ["checkpoint-00000003"]


WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from containers.core.errors import is_out_of_memory
from containers.train import restored

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (96 << 20), resource.RLIM_INFINITY))
try:
    found, rejected = restored.newest(Path(sys.argv[1]))
except (RuntimeError, MemoryError) as error:
    assert is_out_of_memory(error)
    print("out of memory")
"""


def test_a_checkpoint_for_which_there_is_no_memory_is_not_rejected(tmp_path):
    """Else the run would begin anew, and its own checkpoints replace it."""
    Checkpoints(tmp_path, Group.alone()).save({"model": torch.zeros(16 << 20)}, 0)
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(tmp_path)]
    ended = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert (ended.stdout, ended.returncode) == ("out of memory\n", 0), ended.stderr
