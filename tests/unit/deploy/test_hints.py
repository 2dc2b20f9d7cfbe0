"""Every error that AWS documents gets something to try, and the kind is judged as AWS's own service models say."""

import boto3
import pytest
from botocore.exceptions import ClientError

from deploy import hints
from deploy.errors import DeployError, explained
from deploy.hints import hint_for

SERVICES = (
    "application-autoscaling", "cloudwatch", "ec2", "ecr", "iam", "lambda", "logs", "resourcegroupstaggingapi", "s3",
    "sagemaker", "sagemaker-runtime", "service-quotas", "ssm", "sts",
)  # fmt: skip


def declared():
    """(service, code, HTTP status or 0) of each error in botocore's service models."""
    for service in SERVICES:
        model = boto3.Session(region_name="eu-west-1").client(service).meta.service_model
        for shape in model.error_shapes:
            error = shape.metadata.get("error", {})
            yield service, error.get("code", shape.name), error.get("httpStatusCode", 0)


@pytest.fixture(scope="module")
def errors():
    found = list(declared())
    assert len(found) > 150
    return found


def test_no_documented_error_is_left_without_something_to_try(errors):
    assert [row for row in errors if len(hint_for(row[1], status=row[2])) < 20] == []


def test_what_aws_calls_missing_is_looked_for(errors):
    missing = {code for _, code, status in errors if status == 404}
    assert len(missing) > 10
    assert {code for code in missing if hint_for(code, status=404) != hints._MISSING} == set()


def test_what_aws_calls_throttling_is_waited_for(errors):
    throttled = {code for _, code, status in errors if status == 429} | {"ThrottlingException", "EC2ThrottledException"}
    otherwise = {code for code in throttled if hint_for(code, status=429) != hints._THROTTLED}
    assert otherwise == {"ConcurrentModificationException", "ModelNotReadyException"}, "their names say more than 429 does"


def test_what_is_its_own_fault_is_tried_again(errors):
    codes = {code for _, code, status in errors if status in (500, 503)}  # Lambda's 502 is mostly the caller's
    assert len(codes) > 4
    assert {code for code in codes if hint_for(code, status=500) != hints._FAULT} == set()


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("RequestLimitExceeded", 503, "limiting calls"),
        ("VcpuLimitExceeded", 400, "Service Quotas"),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 403, "create-service-linked-role --aws-service-name spot"),
        ("InsufficientFreeAddressesInSubnet", 400, "subnet_ids"),
        ("PendingVerification", 400, "try again"),
        ("MaxSpotInstanceCountExceeded", 400, "Service Quotas"),
        ("ResourceLimitExceeded", 400, "endpoint usage"),
        ("InsufficientInstanceCapacity", 500, "no such machine free"),
        ("InvalidAMIID.NotFound", 400, "status"),
        ("404", 404, "status"),
        ("403", 403, "deploy policies"),
        ("AccessDeniedException", 400, "deploy policies"),
        ("ExpiredToken", 403, "log in again"),
        ("SignatureDoesNotMatch", 403, "this machine's clock"),
        ("DeleteConflict", 409, "wait for what runs"),
        ("ResourceInUse", 400, "wait for what runs"),
        ("ConcurrentUpdateException", 400, "wait for what runs"),
        ("KMSDisabledException", 502, "kms_key_arn"),
        ("ValidationException", 400, "does not take a value"),
        ("InvalidParameterValueException", 400, "does not take a value"),
        ("ModelError", 424, "logs endpoint"),
        ("Weird", 503, "health dashboard"),
        ("Weird", 429, "limiting calls"),
        ("Weird", 403, "deploy policies"),
    ],
)
def test_the_kind_follows_from_the_code_and_then_from_the_status(code, status, says):
    assert says in hint_for(code, status=status)


def test_what_nobody_knows_is_said_to_be_unknown_and_names_where_to_look():
    text = hint_for("Weird", status=400, operation="CreateModel", request_id="r-1")
    assert text == (
        "Kennel knows no remedy for Weird: AWS's API reference of CreateModel explains it under Errors; "
        "AWS's support asks for the request's id: r-1"
    )


def test_an_answer_of_aws_carries_its_code_and_the_requests_id():
    answer = {
        "Error": {"Code": "InternalFailure", "Message": "oops"},
        "ResponseMetadata": {"HTTPStatusCode": 500, "RequestId": "r-2"},
    }
    with pytest.raises(DeployError) as caught, explained("model/x"):
        raise ClientError(answer, "CreateModel")
    assert (caught.value.where, caught.value.code) == ("model/x", "InternalFailure")
    assert "r-2" in caught.value.hint
    assert "run the same command again" in caught.value.hint
