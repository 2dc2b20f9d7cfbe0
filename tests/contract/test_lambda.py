"""What `deploy` sets on the function is what the function's code reads."""

from types import SimpleNamespace

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from deploy.context import Context
from deploy.function import Lambda
from deploy.function_url import FunctionUrl
from invoke_endpoint import CONNECT_TIMEOUT_SECONDS, RESERVE_SECONDS
from lambda_settings import Settings
from tests.support import aws as fake
from tests.support import lambda_events


def deployed(**function) -> Lambda:
    context = fake.context(fake.stage(function=function), session=fake.Instead(SimpleNamespace()))
    context.names = context.names_in(fake.ACCOUNT)
    assert isinstance(context, Context)
    return Lambda(context)


def variables(**function) -> dict[str, str]:
    return deployed(**function).settings["Environment"]["Variables"]


@pytest.mark.parametrize("timeout", [5, 6, 30, 60, 70, 900])
def test_a_call_fits_into_the_functions_time_with_a_second_to_spare(timeout):
    settings = Settings.from_environment(variables(timeout_seconds=timeout))
    assert CONNECT_TIMEOUT_SECONDS + settings.read_timeout_seconds + RESERVE_SECONDS <= timeout - 1


def test_every_variable_is_one_that_the_code_reads():
    known = {name.upper() for name in Settings.__dataclass_fields__}
    given = variables(cors_origins=["https://dogs.example"])
    assert set(given) <= known
    assert Settings.from_environment(given).input_bucket == f"kennel-dev-{fake.ACCOUNT}-{fake.REGION}"


@pytest.mark.parametrize("signer", [SigV4Auth, S3SigV4Auth])  # the second signs a digest of the body too, as browsers' do
def test_a_page_may_send_what_a_signed_request_carries(signer):
    page = "https://dogs.example"
    wanted = {"Content-Type": "image/jpeg", "Accept": "application/json", "X-Amzn-SageMaker-Target-Model": "pug.tar.gz"}
    request = AWSRequest("POST", "https://abc.lambda-url.eu-west-1.on.aws/", headers=wanted, data=b"photo")
    signer(Credentials("key", "secret", "token"), "lambda", fake.REGION).add_auth(request)
    sent = {name.lower() for name in request.headers}
    assert {"authorization", "x-amz-date", "x-amz-security-token"} < sent
    function = deployed(url=True, cors_origins=[page])
    assert sent <= set(FunctionUrl(function.context, function).desired()["cors"]["AllowHeaders"])
    asked = lambda_events.rest_event(method="OPTIONS", Origin=page)
    answer = lambda_events.function(lambda_events.Runtime(), cors_origins=(page,))(asked, lambda_events.Context())
    assert sent <= set(answer["headers"]["access-control-allow-headers"].split(", "))
