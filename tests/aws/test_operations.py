"""What the pages tell an engineer: every alarm has its section, and every command they name is one."""

import re
import shlex
from pathlib import Path

import pytest

from deploy import __main__ as program
from deploy import stack
from deploy.alarms import Alarm
from tests.support.aws import context, release, stage

ROOT = Path(program.__file__).parent.parent
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def alarms(aws):
    """Name without the stage's prefix → what is sent, of every kind of stage that has alarms of its own."""
    kinds = [stage(), stage(endpoint={"kind": "async"}, scaling={"minimum": 0}, function={"enabled": False})]
    engines = [stack.engine(context(config), release()) for config in kinds]
    made = [resource for engine in engines for resource in engine.resources if isinstance(resource, Alarm) and resource.wanted]
    return {alarm.key.removeprefix("alarm/kennel-dev-"): alarm._definition for alarm in made}


def sections() -> dict[str, str]:
    """Anchor, as links name it → the section's text."""
    parts = re.split(r"(?m)^## (.+)$", RUNBOOK)
    return {
        re.sub(r"[^a-z0-9-]", "", title.lower().replace(" ", "-")): text
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_alarm_has_a_section_that_says_what_to_do(alarms):
    assert len(alarms) == 5
    for name in alarms:
        assert name in sections(), f"docs/operations.md has no section for the alarm {name}"
        assert re.search(r"(?m)^1\. ", sections()[name]), f"{name}: no first step"
        assert f"[{name}](#{name})" in RUNBOOK, f"{name} is not in the table"


def test_the_table_names_no_alarm_that_does_not_exist(alarms):
    assert set(re.findall(r"(?m)^\| \[([a-z0-9-]+)\]\(#\1\)", RUNBOOK)) == set(alarms)


def test_every_alarm_names_its_section(alarms):
    """It is what the person reads who is called at night."""
    for name, definition in alarms.items():
        assert definition["AlarmDescription"].endswith(f"Runbook: docs/operations.md#{name}")


def commands():
    for page in PAGES:
        for words in re.findall(r"python -m deploy ([^`\n|]+)", page.read_text(encoding="utf-8")):
            yield pytest.param(words.partition(" #")[0].strip(), id=f"{page.name}: {words.strip()[:50]}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_that_a_page_names_can_be_typed(words):
    argv = [word for word in shlex.split(words.replace("…", "")) if word not in ("[", "]")]
    command = next((word for word in argv if word in program.COMMANDS), None)
    assert command, f"no such command: {words}"
    try:
        program._parser(command).parse_args(argv)
    except SystemExit as error:
        pytest.fail(f"python -m deploy {words}: exit {error.code}")
