"""The command line's own behaviour."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from deploy import __main__ as program
from deploy import logs
from tests.support import aws as fake


def test_help_lists_every_command_and_loads_no_boto():
    code = (
        "import sys; from deploy.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: print('boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert all(command in done.stdout for command in program.COMMANDS)


@pytest.mark.parametrize("command", program.COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main([command, "--help"])
    assert caught.value.code == 0
    assert "--stage" in capsys.readouterr().out


def test_a_mistake_in_the_file_is_one_line_and_exit_2(tmp_path, capsys):
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\n[scalin]\n')
    assert program.main(["costs", "--environments", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "[scalin]: no such table; did you mean [scaling]?" in err
    assert "Traceback" not in err


class Broken:
    """A session whose use fails, as a mistake of ours or a missing file would."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def client(self, *_, **__):
        raise self.error


def status(tmp_path, error: Exception, *flags: str) -> int:
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\n')
    return program.main(["status", "--environments", str(tmp_path), *flags], session=Broken(error))


def test_a_mistake_of_ours_is_one_line_that_says_where(tmp_path, capsys):
    assert status(tmp_path, KeyError("Tags")) == 70
    err = capsys.readouterr().err
    assert re.search(r"Bug in Kennel, not in your file or flags at deploy/context\.py:\d+: KeyError: 'Tags'", err)
    assert "--debug" in err
    assert "Traceback" not in err
    assert status(tmp_path, KeyError("Tags"), "--debug") == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_file_or_an_aws_answer_that_nobody_explained_is_not_called_our_bug(tmp_path, capsys):
    assert status(tmp_path, FileNotFoundError(2, "No such file", "photo.jpg")) == 1
    err = capsys.readouterr().err
    assert "FileNotFoundError" in err
    assert "photo.jpg" in err
    assert "Bug" not in err
    assert status(tmp_path, ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListThings")) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "AWS answered AccessDenied to ListThings" in err
    assert "python -m deploy policies" in err


def test_costs_and_policies_need_no_credentials(tmp_path, capsys):
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\naccount = "123456789012"\n')
    for command in ("costs", "policies"):
        assert program.main([command, "--environments", str(tmp_path), "--json"], session=None) == 0
    assert "arn:aws:iam::123456789012:role/kennel-dev-serve" in capsys.readouterr().out


def test_commands_that_hints_and_pages_name_exist():
    root = Path(program.__file__).parents[1]
    pages = [*root.glob("deploy/*.py"), *root.glob("docs/*.md"), root / "README.md"]
    named = [
        (path.name, *words)
        for path in pages
        for words in re.findall(r"python -m deploy ([a-z][a-z-]*)(?: ([a-z0-9]+))?", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 30
    assert [where for where in named if where[1] not in program.COMMANDS] == []
    names = fake.context().names_in(fake.ACCOUNT)
    context = type("Context", (), {"names": names})()
    for where, command, what in named:
        if command == "logs" and what:
            words = [what, "name"] if what in ("ec2", "transform") else [what]
            assert logs._where(words, context)[0] != logs.TRAINING_GROUP, f"{where}: logs {what}"
