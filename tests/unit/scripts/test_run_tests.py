"""make test: what it runs where something is missing, and what its exit code says."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts import run_tests
from scripts.machine import NoDocker, Stop


class Machine:
    """Stands for the one that make test runs on: what fails in it, and which runs of pytest were started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine: Exception | None = None
        self.build: Exception | None = None
        self.local_venv: Exception | None = None
        self.statuses: dict[str, int] = {}
        self.ran: list[str] = []
        monkeypatch.delenv("KENNEL_REQUIRE_DOCKER", raising=False)
        monkeypatch.setattr(run_tests, "find_docker", lambda: _raise(self.engine))
        monkeypatch.setattr(run_tests.images, "build", lambda _: _raise(self.build))
        monkeypatch.setattr(run_tests.environment, "ensure", self._ensure)
        monkeypatch.setattr(run_tests, "_pytest", self._pytest)

    def _ensure(self, venv: Path, locks: Sequence[str]) -> Path:
        _raise(self.local_venv if locks == ["local"] else None)
        return venv / "bin" / "python"

    def _pytest(self, title: str, python: Path, *arguments: str) -> int:
        name = "local" if arguments[0] == run_tests.LOCAL_MODE else "containers" if "docker" in arguments else "others"
        self.ran.append(name)
        return self.statuses.get(name, 0)


def _raise(error: Exception | None) -> None:
    if error:
        raise error


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1), (-9, 1)], ids=["good", "failed", "killed"])
@pytest.mark.parametrize("which", ["local", "containers", "others"])
def test_a_run_that_failed_or_was_killed_is_no_success(machine: Machine, which: str, status: int, code: int) -> None:
    machine.statuses = {which: status}
    assert run_tests.main() == code
    assert machine.ran == ["local", "containers", "others"]


def test_without_an_engine_container_tests_skip_with_their_reason(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.engine = NoDocker("there is none")
    assert run_tests.main() == 0
    assert machine.ran == ["containers", "others"]
    assert "Not run: tests/local_mode and container tests, as there is none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "ran", "listed"),
    [
        ("build", ["others"], "tests/local_mode and container tests, as it broke"),
        ("local_venv", ["containers", "others"], "tests/local_mode, as it broke"),
    ],
)
def test_what_should_have_worked_costs_its_tests_and_the_exit_code(
    machine: Machine, capsys: pytest.CaptureFixture[str], broken: str, ran: list[str], listed: str
) -> None:
    setattr(machine, broken, Stop("it broke"))
    assert run_tests.main() == 1
    assert machine.ran == ran
    assert f"Not run: {listed}" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["engine", "build", "local_venv"])
def test_required_means_that_nothing_is_run_without_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setenv("KENNEL_REQUIRE_DOCKER", "1")
    setattr(machine, missing, NoDocker("not here") if missing == "engine" else Stop("not here"))
    assert run_tests.main() == 1
    assert machine.ran == []
    assert "make test: container tests are required, but not here" in capsys.readouterr().err
