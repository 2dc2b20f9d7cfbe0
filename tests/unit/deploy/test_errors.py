"""Nobody is left with a problem alone: each error of deploy says what to try."""

import ast
from pathlib import Path

import pytest

from deploy import errors

SOURCES = sorted(Path(errors.__file__).parent.glob("*.py"))
KINDS = {"DeployError", "Refused", "TimedOut", "WrongAnswer"}


def raised() -> list[tuple[str, ast.Call]]:
    """`file:line` and call of every error that is made."""
    calls = [(path.name, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    return [
        (f"{name}:{node.lineno}", node)
        for name, node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in KINDS
    ]


def test_every_error_that_is_made_has_a_hint():
    made = raised()
    assert len(made) > 100, "the search is blind"
    hints = {where: [word.value for word in call.keywords if word.arg == "hint"] for where, call in made}
    assert not [where for where, found in hints.items() if not found or ast.unparse(found[0]) in ("''", "None")]


def test_one_without_cannot_be_made():
    with pytest.raises(TypeError, match="hint"):
        errors.Refused("somewhere", "something")


def test_a_person_reads_it():
    assert str(errors.Refused("stage dev", "there is none", hint="write one")) == "stage dev: there is none\n  try: write one"
