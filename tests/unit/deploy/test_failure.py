"""How an error is told to a program: one JSON document on stdout, whatever went wrong, with the exit code it always had."""

import json

import pytest
from botocore.exceptions import ClientError

from containers.core.errors import ConfigError
from deploy import __main__ as program
from deploy import failure
from deploy.errors import Refused, TimedOut

KEYS = ["error", "where", "problem", "hint", "aws_code", "exit_code"]
STAGE = '[stage]\nregion = "eu-west-1"\n'


class Broken:
    """A session whose use fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def client(self, *_, **__):
        raise self.error


def run(folder, capsys, *words: str, error: BaseException | None = None, stage: str = STAGE):
    """(exit code, the document on stdout, stderr). Fails where stdout is not one document."""
    (folder / "dev.toml").write_text(stage)
    try:
        code = program.main([*words, "--environments", str(folder), "--json"], session=error and Broken(error))
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


REFUSED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListThings")
ERRORS = [
    (Refused("stage dev", "no", hint="yes"), {"error": "Refused", "where": "stage dev", "problem": "no", "hint": "yes"}, 2),
    (TimedOut("endpoint/x", "still Updating", hint="wait on"), {"error": "TimedOut", "hint": "wait on", "aws_code": None}, 1),
    (REFUSED, {"error": "DeployError", "where": "credentials", "aws_code": "AccessDenied"}, 1),
    (ConfigError("a\n  - b"), {"error": "ConfigError", "where": None, "problem": "a\n  - b", "hint": None}, 2),
    (FileNotFoundError(2, "No such file", "photo.jpg"), {"error": "FileNotFoundError", "where": "photo.jpg"}, 1),
    (KeyError("Tags"), {"error": "Bug", "problem": "KeyError: 'Tags'"}, 70),
    (KeyboardInterrupt(), {"error": "Interrupted", "hint": "run the same command again to go on"}, 130),
]


@pytest.mark.parametrize(("error", "expected", "exit_code"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_kind_of_error_is_one_document_and_a_line_for_people(tmp_path, capsys, error, expected, exit_code):
    code, document, err = run(tmp_path, capsys, "status", error=error)
    assert (code, document["exit_code"]) == (exit_code, exit_code)
    assert list(document) == KEYS
    assert {key: document[key] for key in expected} == expected
    assert err.startswith(document["error"])


def test_a_bug_says_where_it_is(tmp_path, capsys):
    _, document, _ = run(tmp_path, capsys, "status", error=KeyError("Tags"))
    file, _, line = document["where"].partition(":")
    assert file == "deploy/context.py"
    assert int(line) > 0
    assert "--debug" in document["hint"]


def test_what_aws_said_and_what_to_try_arrive_whole(tmp_path, capsys):
    _, document, _ = run(tmp_path, capsys, "status", error=REFUSED)
    assert document["problem"] == "AWS answered AccessDenied to ListThings: no"
    assert "python -m deploy policies" in document["hint"]


def test_a_mistake_in_the_file_is_told_with_all_its_lines(tmp_path, capsys):
    code, document, _ = run(tmp_path, capsys, "costs", stage=f"{STAGE}[scalin]\n[training]\nspot = 3\n")
    assert (code, document["error"], document["exit_code"]) == (2, "ConfigError", 2)
    assert "[scalin]: no such table" in document["problem"]
    assert "[training] spot" in document["problem"]
    _, document, _ = run(tmp_path, capsys, "costs", "--stage", "nope")
    assert "known stages are dev" in document["problem"]


@pytest.mark.parametrize(
    ("words", "program_name", "says"),
    [
        (["costs", "--pricess", "x"], "python -m deploy", "--pricess"),
        (["train"], "python -m deploy train", "--data"),
        (["train", "--data", "d", "--instances", "two"], "python -m deploy train", "invalid int value: 'two'"),
        (["plam"], "python -m deploy", "invalid choice: 'plam'"),
    ],
)
def test_a_mistake_in_the_flags_is_a_document_too(tmp_path, capsys, words, program_name, says):
    code, document, err = run(tmp_path, capsys, *words)
    assert (code, document["error"], document["exit_code"]) == (2, "UsageError", 2)
    assert list(document) == KEYS
    assert says in document["problem"]
    assert (document["where"], document["hint"]) == (program_name, f"{program_name} --help")
    assert "usage: " in err, "people read what argparse always wrote"


def test_without_json_stdout_stays_empty(tmp_path, capsys):
    (tmp_path / "dev.toml").write_text(STAGE)
    assert program.main(["status", "--environments", str(tmp_path)], session=Broken(KeyError("Tags"))) == 70
    with pytest.raises(SystemExit):
        program.main(["train"])
    assert capsys.readouterr().out == ""


def test_letters_of_every_language_are_written_as_they_are(capsys):
    failure.write(failure.of(ConfigError("Größe ≠ 3")).as_dict())
    out = capsys.readouterr().out
    assert "Größe ≠ 3" in out
    assert out.endswith("}\n")
