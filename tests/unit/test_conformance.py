"""The conformance tool as it is called, without a Docker engine; what it finds is in tests/container/test_conformance.py."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.__main__ import read, words
from tests.conformance.report import NotTried, Report, require

ROOT = Path(__file__).parents[2]
DOCUMENTED = re.findall(r"^make conformance IMAGE.*$", (ROOT / "docs" / "proof.md").read_text(), re.M)


def filled(text: str, folder: Path) -> str:
    """A documented line with folders and files that are there."""
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "photo.jpg").write_bytes(b"photo")
    text = text.replace("--data photos", f"--data {folder}/photos").replace("--model model", f"--model {folder}/model")
    return text.replace("--payload photo.jpg", f"--payload {folder}/photo.jpg")


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_documented_line_is_understood_and_without_an_engine_one_line_says_so(line: str, tmp_path: Path) -> None:
    environment = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock", "MAKEFLAGS": ""}
    command = f"{filled(line, tmp_path)} --old-file=setup VENV={sys.prefix}"  # the packages are there: this test runs
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    (told, ended) = done.stderr.splitlines()
    assert told.startswith("conformance: no Docker engine answers (")
    assert "Makefile" in ended
    assert done.returncode == 2


def test_both_halves_are_documented() -> None:
    assert len(DOCUMENTED) >= 2


def test_json_in_args_keeps_its_quotes(tmp_path: Path) -> None:
    given = read(
        ["mine:1", *words(filled('--data photos --hyperparameters {"epochs":1,"a":"b"} --env A=b=c --env D=', tmp_path))]
    )
    assert given.hyperparameters == {"epochs": 1, "a": "b"}
    assert given.env == [("A", "b=c"), ("D", "")]


def test_quotes_around_a_word_hold_it_together() -> None:
    assert words("""--hyperparameters '{"epochs": 1}' --running-words "epoch 1" --x""") == [
        "--hyperparameters", '{"epochs": 1}', "--running-words", "epoch 1", "--x",
    ]  # fmt: skip
    assert json.loads(words("""'{"epochs": 1}'""")[0]) == {"epochs": 1}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--payload", "{folder}/photo.jpg"], "need each other"),
        (["--model", "{folder}/model"], "need each other"),
        (["--model", "{folder}/model", "--payload", "{folder}/absent.jpg"], "no file"),
        (["--data", "{folder}/absent"], "no folder"),
        (["--env", "NAME"], "not NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_said(given, why, tmp_path, capsys) -> None:
    filled("", tmp_path)
    with pytest.raises(SystemExit) as ended:
        read(["mine:1", *(part.format(folder=tmp_path) for part in given)])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_a_quote_that_does_not_end_is_said(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        words("--env 'A=b")
    assert capsys.readouterr().err.startswith("conformance: ARGS: No closing quotation")


def test_an_image_alone_is_enough() -> None:
    given = read(["mine:1"])
    assert (given.data, given.model) == (None, None)


def test_every_line_has_its_verdict_its_reason_and_its_page() -> None:
    report = Report(stream=io.StringIO())
    with report.rule("kept", "https://page/1"):
        require(True, "")
    with report.rule("broken", "https://page/2"):
        require(False, "because")
    with report.advice("costly", "https://page/3 https://page/4"):
        require(False, "it costs")
    with report.rule("unknown", "https://page/5"):
        raise NotTried("no way to")
    report.not_tried("not asked", "give more", "https://page/6")
    assert [line.verdict for line in report.lines] == ["pass", "fail", "advice", "not tried", "not tried"]
    assert [line.rule for line in report.failed()] == ["broken"]
    printed = report.stream.getvalue()
    assert all(f"https://page/{number}" in printed for number in range(1, 7))
    assert report.summary() == "5 rules: 1 pass, 1 fail, 1 advice, 2 not tried"
    table = report.markdown().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in table] == ["fail", "advice", "not tried", "not tried", "pass"]
    assert "[page](https://page/3) [page](https://page/4)" in table[1]
