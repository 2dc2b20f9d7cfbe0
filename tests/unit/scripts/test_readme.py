"""The README names commands, files and links that exist, and figures that the code or a result page gives."""

import json
import re
from pathlib import Path

import pytest

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


def test_what_a_month_costs_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    from deploy.__main__ import main

    assert main(["costs", "--stage", "dev", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    standing = [each for each in told["costs"] if each["standing"]]
    least, most = (told["hours_per_month"] * sum(each[bound] for each in standing) for bound in ("minimum", "maximum"))
    for figure in (f"${least:,.0f} ", f"${most:,.0f} ", f"{told['prices']['region']}, prices of {told['prices']['date']}"):
        assert figure in README


def test_a_result_that_was_disturbed_is_called_so() -> None:
    results = [(ROOT / link).read_text() for link in re.findall(r"\]\((benchmarks/results/[^)]+)", README)]
    assert results
    disturbed = [re.search(r"\*\*Disturbed\*\*: in (\d+ of )\d+ readings .*up to (\d+)%", text) for text in results]
    assert ("disturbed" in README) == any(disturbed)
    for found in filter(None, disturbed):
        assert f"up to {found[2]} % of the machine in {found[1]}its" in " ".join(README.split())


def test_its_figures_of_training_are_those_of_the_page_it_links_to() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+)[^|]* \|", page, re.M))
    (loader, _), (network, fused) = re.findall(r"^\| training, [^|]+\| ([\d.]+) ×(?: \(([\d.]+)\))?", README, re.M)
    assert float(loader) == round(float(rows["over torchvision's reference training, loader-bound"]), 1)
    assert network == rows["the same, ResNet-50 at 224"]
    assert f"{fused} of the {network} stay where the reference is given fused AdamW" in " ".join(page.split())
    stop = re.search(r"^\| SIGTERM [^|]+\| ([\d.]+) s", README, re.M)
    assert stop
    assert stop[1] == rows["SIGTERM to exit with a checkpoint, ResNet-50, batch 8"]
