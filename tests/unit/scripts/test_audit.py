import json
import re
from datetime import date
from pathlib import Path

import pytest

from scripts import audit
from scripts.environment import REQUIREMENTS

CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


def test_clean_means_that_everything_was_checked() -> None:
    assert audit.verdict([CLEAN]) == (0, [])
    assert audit.verdict([CLEAN, SKIPPED])[0] == 1
    assert audit.verdict([SKIPPED, SKIPPED])[0] == 3
    assert audit.verdict([])[0] == 1


def test_a_finding_names_the_release_that_mends_it() -> None:
    assert audit.verdict([CLEAN, BAD]) == (1, ["c 2: PYSEC-1, fixed in 3"])


@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        (3, "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service with `-s SERVICE`"),
        (
            3,
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded",
        ),
        (3, "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='index.example', port=443): Read timed out."),
        (1, "/usr/bin/python: No module named pip_audit"),
        (1, "ImportError: cannot import name 'ConnectionError' from 'requests'"),
        (1, "requests.exceptions.HTTPError: 500 Server Error: Internal Server Error"),
        (1, "ERROR:pip_audit._cli:invalid requirements input: all.lock"),
        (1, ""),
    ],
)
def test_only_a_missing_connection_is_no_failure(code: int, last_line: str) -> None:
    found, lines = audit.answer("", f"WARNING:pip_audit._cli:something\n{last_line}\n" if last_line else "")
    assert found == code
    assert (last_line or "no message") in lines[0]


@pytest.mark.parametrize("printed", [json.dumps({}), json.dumps([]), json.dumps({"dependencies": []})])
def test_an_answer_without_packages_is_a_failure(printed: str) -> None:
    assert audit.answer(printed, "")[0] == 1


def test_a_lock_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    code, lines = audit.audit(tmp_path / "absent.lock", [])
    assert (code, len(lines)) == (1, 1)


def test_an_allowed_advisory_runs_out() -> None:
    text = "# comment\n\nPYSEC-1 2026-01-31 not reached from our code\nPYSEC-2 2026-02-01 the same\n"
    assert audit.read_allowed(text, date(2026, 2, 1)) == (["PYSEC-2"], ["PYSEC-1"])


def test_the_list_that_is_committed_can_be_read() -> None:
    audit.read_allowed(audit.ALLOWED.read_text(), date(2026, 1, 1))


def _pinned(name: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", (REQUIREMENTS / f"{name}.lock").read_text(), re.M))


def test_whatever_a_lock_pins_is_looked_at() -> None:
    looked_at = set().union(*map(_pinned, audit.LOCKS))
    assert {path.stem: _pinned(path.stem) - looked_at for path in REQUIREMENTS.glob("*.lock")} == {
        path.stem: set() for path in REQUIREMENTS.glob("*.lock")
    }
