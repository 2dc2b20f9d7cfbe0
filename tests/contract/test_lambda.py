"""What `deploy` sets on the function is what the function's code reads."""

from types import SimpleNamespace

import pytest

from deploy.context import Context
from deploy.function import Lambda
from invoke_endpoint import CONNECT_TIMEOUT_SECONDS, RESERVE_SECONDS
from lambda_settings import Settings
from tests.support import aws as fake


def variables(**function) -> dict[str, str]:
    context = fake.context(fake.stage(function=function), session=fake.Instead(SimpleNamespace()))
    context.names = context.names_in(fake.ACCOUNT)
    assert isinstance(context, Context)
    return Lambda(context).settings["Environment"]["Variables"]


@pytest.mark.parametrize("timeout", [5, 6, 30, 60, 70, 900])
def test_a_call_fits_into_the_functions_time_with_a_second_to_spare(timeout):
    settings = Settings.from_environment(variables(timeout_seconds=timeout))
    assert CONNECT_TIMEOUT_SECONDS + settings.read_timeout_seconds + RESERVE_SECONDS <= timeout - 1


def test_every_variable_is_one_that_the_code_reads():
    known = {name.upper() for name in Settings.__dataclass_fields__}
    given = variables(cors_origins=["https://dogs.example"])
    assert set(given) <= known
    assert Settings.from_environment(given).input_bucket == f"kennel-dev-{fake.ACCOUNT}-{fake.REGION}"
