"""The soak in short: kills under load lose nothing that was accepted. The long one is `python -m tests.load.soak`."""

import os
import time
from pathlib import Path

import pytest

from tests.load.soak import soak
from tests.load.tally import FRONT, MODEL, SPARED, Kill, Tally, faults
from tests.support import artifacts
from tests.support.server import serving

SECONDS = float(os.environ.get("KENNEL_SOAK_SECONDS", "60"))
"""CI soaks for five minutes; whoever runs the tests by hand waits for one."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_load_and_kills_lose_no_accepted_request(tmp_path: Path):
    artifacts.save(tmp_path / "model")
    with serving(tmp_path / "model", tmp_path / "log", model_processes=2) as server:
        tally = soak(server, SECONDS, kill_every=SECONDS / 5, mutants=1000)
        assert "Traceback" not in server.log.read_text()
    report = tally.report()
    assert len(tally.kills) == 4
    assert set(report["memory_mb_of_processes_never_killed"]) == set(SPARED)
    assert not {kill.pid for kill in tally.kills} & {pid for pid, name in tally.watched.items() if name in SPARED}
    assert faults(report) == [], report


def tally(*failures: tuple[float, str], kills: tuple[tuple[float, str], ...] = ()) -> Tally:
    """Each failure took a second and ended at its time."""
    seen = Tally(megabytes=[1.0] * 9, descriptors=[1] * 9, kills=[Kill(at, kind, 0) for at, kind in kills])
    for at, status in failures:
        seen.count(at - 1, at, status, damaged=False)
    seen.judge(alive=set())
    return seen


def test_only_a_kill_of_the_right_kind_excuses_a_failure():
    near = ((100.2, MODEL),)
    assert tally((101.0, "500"), kills=near).excused == 1
    assert tally((101.0, "ConnectionError"), kills=near).unexpected == ["ConnectionError"]
    assert tally((101.0, "ConnectionError"), kills=((100.2, FRONT),)).excused == 1
    assert tally((104.0, "500"), kills=near).unexpected == ["500"]
    slow = Tally(megabytes=[1.0] * 9, descriptors=[1] * 9, kills=[Kill(100.2, MODEL, 0, done=103.5)])
    slow.count(103.0, 104.0, "500", damaged=False)
    slow.count(105.0, 106.0, "500", damaged=False)
    slow.judge(alive=set())
    assert (slow.excused, slow.unexpected) == (1, ["500"])
    assert tally((101.0, "504"), kills=near).unexpected == ["504"]
    assert tally((101.0, "400")).unexpected == ["400"]  # a good photo
    assert tally((101.0, "503"), (101.0, "200")).unexpected == []


def test_what_must_not_be_is_named():
    good = tally((1.0, "200")).report()
    assert faults(good) == []
    assert "grew by 4.0%" in faults(good | {"memory_growth": 0.04})[0]
    assert "descriptors" in faults(good | {"descriptors_middle_and_last_third": (50, 60)})[0]
    assert "only 0 damaged" in faults(good | {"damaged_photos_wanted": 9})[0]
    steady, leaks = [100.0, 101.0], [100.0, 106.0]
    for name, other in (SPARED, SPARED[::-1]):
        assert faults(good | {"memory_mb_of_processes_never_killed": {name: steady, other: steady}}) == []
        (grew,) = faults(good | {"memory_mb_of_processes_never_killed": {name: steady, other: leaks}})
        assert grew.startswith("memory of the processes never killed grew from 200.0 to 207.0 MB")
    refused = tally(*[(1.0, "503")] * 3, *[(1.0, "200")] * 7).report()
    assert faults(refused) == ["only 7 of 10 good photos were answered"]
    assert faults(tally((1.0, "503")).report()) == ["only 0 of 1 good photos were answered"]
    assert faults(good | {"unexpected_errors_in_the_log": 2}) == ["2 unexpected errors in the log"]
    lonely = Tally(megabytes=[1.0] * 9, descriptors=[1] * 9, watched={7: "kennel-front-0", 8: "kennel-http", 9: MODEL})
    lonely.kills.append(Kill(time.monotonic(), MODEL, 9))
    lonely.count(0, 1, "200", damaged=True)
    lonely.judge(alive={8})
    assert faults(lonely.report()) == ["processes died that nobody killed: ['kennel-front-0']"]
