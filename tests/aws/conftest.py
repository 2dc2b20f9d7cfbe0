"""A fake account for every test of this folder that asks for it, and deploy's command line in it."""

import pytest

from tests.support import moto_ext
from tests.support.command_line import CommandLine, OnEc2, Released, Serving


@pytest.fixture
def aws():
    with moto_ext.account():
        yield


@pytest.fixture
def deploy(aws, tmp_path, capsys):
    return CommandLine(tmp_path, capsys)


@pytest.fixture
def released(aws, tmp_path, capsys):
    return Released(tmp_path, capsys)


@pytest.fixture
def on_ec2(aws, tmp_path, capsys):
    return OnEc2(tmp_path, capsys)


@pytest.fixture
def serving(aws, tmp_path, capsys):
    return Serving(tmp_path, capsys)
