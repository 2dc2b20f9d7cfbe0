"""make test: what its exit code says."""

from pathlib import Path

import pytest

from scripts import run_tests
from scripts.machine import NoDocker


@pytest.mark.parametrize(("statuses", "code"), [((0, 0), 0), ((1, 0), 1), ((0, -9), 1)], ids=["good", "failed", "killed"])
def test_a_run_that_failed_or_was_killed_is_no_success(monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], code: int):
    def no_docker() -> None:
        raise NoDocker("there is none")

    left = list(statuses)
    monkeypatch.delenv("KENNEL_REQUIRE_DOCKER", raising=False)
    monkeypatch.setattr(run_tests, "find_docker", no_docker)
    monkeypatch.setattr(run_tests.environment, "ensure", lambda venv, locks: Path("python"))
    monkeypatch.setattr(run_tests, "_pytest", lambda *_: left.pop())
    assert run_tests.main() == code
    assert left == []
