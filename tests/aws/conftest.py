"""A fake AWS account for every test of this folder that asks for it."""

import pytest

from tests.support import moto_ext


@pytest.fixture
def aws():
    with moto_ext.account():
        yield
