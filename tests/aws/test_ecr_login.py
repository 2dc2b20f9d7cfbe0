"""The password that ECR gives for twelve hours: what the engine is told of it, and that nobody else is.

The engine is a stand-in; a real one, with a real registry, is in test_images.
"""

import json

import pytest

from deploy import __main__ as program
from deploy import images
from tests.support import docker_socket, moto_ext
from tests.support.aws import FakeClock, SharedSession, client, context
from tests.support.docker_socket import DIGEST
from tests.support.duties import held_to

PASSWORD = "123456789012-auth-token"  # moto's
TARGET = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev/train"


@pytest.fixture
def engine(monkeypatch):
    with docker_socket.engine(monkeypatch) as made:
        yield made


@pytest.fixture
def command(aws, tmp_path, capsys):
    """`images train --no-build --tag v1`: exit code, stdout, stderr."""
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\n')
    client("ecr").create_repository(repositoryName="kennel/dev/train")

    def run(*more):
        words = ["images", "train", "--no-build", "--tag", "v1", "--environments", str(tmp_path), "--json", "--debug", *more]
        with held_to(words, tmp_path / "dev.toml"):
            code = program.main(words, session=SharedSession(), clock=FakeClock())
        return code, *capsys.readouterr()

    return run


def test_the_engine_gets_ecrs_login_for_each_question_and_nobody_sees_it(command, engine):
    code, out, err = command()
    assert code == 0, err
    assert json.loads(out)[0]["reference"] == f"{TARGET}@{DIGEST}"
    login = {"username": "AWS", "password": PASSWORD}
    assert engine.asked == [("look", f"{TARGET}:v1", login), ("look", f"{TARGET}@{DIGEST}", login)]
    assert PASSWORD not in out + err


def test_a_push_is_made_with_it(aws, engine):
    ctx = context()
    assert images.push(images.connect(), TARGET, "v1", images.ecr_login(ctx), ctx) == DIGEST
    assert engine.asked == [("push", TARGET, {"username": "AWS", "password": PASSWORD})]
    assert PASSWORD not in ctx.out.text + ctx.console.text


def test_a_registry_that_refuses_it_is_told_without_it(command, engine):
    engine.refuses = "denied: not authorized to perform ecr:BatchGetImage"
    code, out, err = command()
    assert code == 1
    assert "check AWS_PROFILE and the deployer's policy" in json.loads(out)["hint"]
    assert PASSWORD not in out + err


def test_another_registry_is_not_told_of_it(command, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert command("--registry", "localhost:5000")[0] == 0
    assert [login for *_, login in engine.asked] == [None, None]


def test_who_may_not_log_in_is_told_what_aws_said(command, engine):
    moto_ext.YOUNG["GetAuthorizationToken"] = [
        ("AccessDeniedException", "not authorized to perform: ecr:GetAuthorizationToken")
    ]
    code, out, _ = command()
    told = json.loads(out)
    assert (code, told["where"], told["aws_code"]) == (1, "ECR login", "AccessDeniedException")
    assert engine.asked == []


def test_without_a_repository_nothing_is_built_or_asked(command, engine):
    client("ecr").delete_repository(repositoryName="kennel/dev/train")
    code, out, _ = command()
    told = json.loads(out)
    assert (code, told["where"], told["problem"]) == (2, "repository/kennel/dev/train", "does not exist")
    assert "python -m deploy apply" in told["hint"]
    assert engine.asked == []
