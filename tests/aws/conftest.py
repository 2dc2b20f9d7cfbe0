"""A fake AWS account for every test of this folder that asks for it."""

import pytest
from moto import mock_aws

from tests.support import moto_ext


@pytest.fixture
def aws():
    """An empty account. Lambda code is not run (no Docker); account-wide defaults are ordinary."""
    moto_ext.install()
    moto_ext.reset()
    with mock_aws(config={"lambda": {"use_docker": False}, "iam": {"load_aws_managed_policies": False}}):
        yield
