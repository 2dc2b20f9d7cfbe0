"""The command line's own behaviour."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, SSOTokenLoadError

from deploy import __main__ as program
from deploy import logs
from deploy.errors import DeployError, Refused, explained
from scripts.machine import ROOT
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


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "Unable to locate credentials try: log in (`aws configure`"),
        ({"AWS_PROFILE": "nope"}, "(nope) could not be found try: set AWS_PROFILE to one that `aws configure list-profiles`"),
        ({"AWS_ACCESS_KEY_ID": "AK"}, "missing: AWS_SECRET_ACCESS_KEY try: give the one that is missing"),
        ({"AWS_PROFILE": "sso"}, "Token for x does not exist try: log in again (`aws sso login`"),
        ({"AWS_PROFILE": "fails"}, "custom-process: try: log in again"),
        ({"AWS_PROFILE": "half"}, "missing required configuration"),
    ],
)
def test_credentials_that_a_person_must_mend_are_exit_2(tmp_path, environ, says):
    """As with a wrong file: nothing was written. botocore reads what a user's machine would hold."""
    (tmp_path / "config").write_text(
        "[profile sso]\nsso_session=x\nsso_account_id=123456789012\nsso_role_name=r\n"
        "[sso-session x]\nsso_region=eu-west-1\nsso_start_url=https://x.awsapps.com/start\n"
        "[profile fails]\ncredential_process=/bin/false\n"
        "[profile half]\nsso_start_url=https://x.awsapps.com/start\nsso_account_id=123456789012\n"
    )
    away = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_EC2_METADATA_DISABLED": "true"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "status"], env=kept | away | environ, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("Refused credentials: ")
    assert says in " ".join(done.stderr.split())


EXPIRED = ClientError({"Error": {"Code": "ExpiredToken", "Message": "expired"}}, "GetCallerIdentity")
BUSY = ClientError({"Error": {"Code": "Throttling", "Message": "slow"}}, "GetCallerIdentity")


@pytest.mark.parametrize(
    ("error", "first", "kind"),
    [
        (EXPIRED, True, Refused),
        (EXPIRED, False, DeployError),
        (BUSY, True, DeployError),
        (SSOTokenLoadError(error_msg="ended"), False, DeployError),
    ],
)
def test_a_session_that_ends_while_a_command_runs_is_not_exit_2(error, first, kind):
    with pytest.raises(DeployError) as caught, explained("bucket", first=first):
        raise error
    assert type(caught.value) is kind


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


def test_documents_are_of_an_account_that_can_be(capsys):
    assert program.main(["policies", "--account", "1234"]) == 2
    assert "--account 1234: an account number has 12 digits" in capsys.readouterr().err
    assert program.main(["policies", "serve", "--account", "123456789012"]) == 0
