"""The soak in short: kills under load lose nothing that was accepted. The long one is `python -m tests.load.soak`."""

from pathlib import Path

import pytest

from tests.load.soak import MEMORY_GROWTH, soak
from tests.support import artifacts
from tests.support.server import serving


@pytest.mark.slow
def test_a_minute_of_load_and_kills_loses_no_accepted_request(tmp_path: Path):
    artifacts.save(tmp_path / "model")
    with serving(tmp_path / "model", tmp_path / "log", model_processes=2) as server:
        tally = soak(server, seconds=60, kill_every=12)
        assert not server.events("unexpected error")
        assert "Traceback" not in server.log.read_text()
    report = tally.report()
    assert len(tally.kills) >= 4
    assert report["lost"] == 0, report
    assert report["statuses"]["200"] > 0.8 * report["requests"], report
    assert report["memory_growth"] <= MEMORY_GROWTH, report
