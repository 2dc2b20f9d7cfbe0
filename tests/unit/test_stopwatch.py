import time
from pathlib import Path

import pytest

from tests.support import stopwatch
from tests.support.stopwatch import Stopwatch


def test_what_everybody_waited_for_a_cpu_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopwatch, "_PRESSURE", tmp_path / "cpu")
    for end in (0, 1000):
        (tmp_path / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull avg10=0.00 total=7\n")
        began, watch = time.monotonic(), Stopwatch()
        time.sleep(0.01)
        (tmp_path / "cpu").write_text(
            f"some avg10=9.00 avg60=0.00 avg300=0.00 total={5 + end}000000\nfull avg10=0.00 total=7\n"
        )
        assert 0.01 - end <= watch.seconds <= time.monotonic() - began - end


def test_where_the_kernel_does_not_tell_it_is_the_wall_s_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stopwatch, "_PRESSURE", tmp_path / "nothing")
    began, watch = time.monotonic(), Stopwatch()
    time.sleep(0.01)
    assert 0.01 <= watch.seconds <= time.monotonic() - began
