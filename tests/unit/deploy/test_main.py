"""The command line's own behaviour."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
        if command == "logs" and what and what != "ec2":
            assert logs._where([what], context)[0] != logs.TRAINING_GROUP, f"{where}: logs {what}"
