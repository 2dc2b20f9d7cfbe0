"""The README names commands, files and links that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert {"demo", "test", "stop", "images"} <= named
    assert named <= targets


def test_every_link_into_the_tree_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_deploy_command_it_names_exists() -> None:
    from deploy.__main__ import COMMANDS

    assert set(re.findall(r"python -m deploy ([a-z]+)", README)) <= set(COMMANDS)
