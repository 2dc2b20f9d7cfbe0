"""What was made a moment ago is not known everywhere at once: the first apply and release of an account wait for it."""

import pytest
from moto.sagemaker.models import sagemaker_backends

from deploy import stack
from deploy.errors import DeployError
from deploy.serving import EndpointConfig
from tests.support import moto_ext, moto_sagemaker
from tests.support.applied import FULL, apply, endpoint, settled, writes_of
from tests.support.aws import ACCOUNT, REGION, Recorder, context, release, stage

ROLE, LINKED = "arn:aws:iam::123456789012:role/kennel-dev-serve", "arn:aws:iam::123456789012:role/aws-service-role/x"
DATA = (
    f'Could not access model data at s3://b/k. Please ensure that the role "{ROLE}" exists and that its trust relationship '
    'policy allows the action "sts:AssumeRole" for the service principal "sagemaker.amazonaws.com".'
)
VARIABLES = (
    "Lambda was unable to configure access to your environment variables because the KMS key is invalid for CreateGrant. "
    "Please check your KMS key settings. KMS Exception: InvalidArnException"
)
NOT_YET = {  # operation → AWS's answers meanwhile, as users and the Terraform provider's sources report them
    "CreateRole": [("NoSuchEntity", "Scope ARN: arn:aws:iam::1:policy/x does not exist or is not attachable.")],
    "PutRolePolicy": [("NoSuchEntity", "The role with name kennel-dev-train cannot be found.")],
    "AddRoleToInstanceProfile": [("NoSuchEntity", "The role with name kennel-dev-ec2 cannot be found.")],
    "CreateBucket": [("OperationAborted", "A conflicting conditional operation is currently in progress against it.")],
    "PutPublicAccessBlock": [("NoSuchBucket", "The specified bucket does not exist")],
    "PutBucketVersioning": [("OperationAborted", "A conflicting conditional operation is currently in progress")],
    "CreateModel": [
        ("ValidationException", f"Could not assume role {ROLE}. Please ensure that the role exists."),
        ("ValidationException", DATA),
        ("ValidationException", f'The role "{ROLE}" does not grant ecr:GetDownloadUrlForLayer permission'),
    ],
    "CreateEndpointConfig": [("ValidationException", 'Could not find model "kennel-dev-0".')],
    "CreateEndpoint": [("ValidationException", 'Could not find endpoint configuration "kennel-dev-0".')],
    "RegisterScalableTarget": [("ValidationException", f"Unable to assume IAM role: {LINKED}")] * 2,
    "PutScalingPolicy": [
        ("FailedResourceAccessException", "… is not authorized to perform: cloudwatch:DescribeAlarms"),
        ("ObjectNotFoundException", "No scalable target found for service namespace: sagemaker"),
    ],
    "PutScheduledAction": [("ObjectNotFoundException", "No scalable target registered")],
    "CreateFunction": [
        ("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."),
        ("InvalidParameterValueException", VARIABLES),
    ],
}


def test_the_first_apply_and_release_wait_for_what_has_not_spread(aws):
    moto_ext.YOUNG.update({operation: list(answers) for operation, answers in NOT_YET.items()})
    apply(stage(**FULL))
    assert not any(moto_ext.YOUNG.values()), "an answer was never given: the operation is not called"
    assert writes_of(apply, stage(**FULL)) == []


def test_so_does_an_update_to_a_configuration_made_a_moment_ago(aws):
    apply()
    before = settled()
    moto_ext.YOUNG["UpdateEndpoint"] = [("ValidationException", 'Could not find endpoint configuration "kennel-dev-0".')]
    apply(which="b")
    assert settled() != before


def test_what_never_comes_is_told_in_aws_words(aws):
    moto_ext.YOUNG["CreateEndpoint"] = [("ValidationException", "Could not find endpoint configuration")] * 1000
    with pytest.raises(DeployError, match="AWS answered ValidationException to CreateEndpoint: Could not find endpoint conf"):
        apply()


def test_a_boundary_of_our_own_is_waited_for_where_the_roles_were_there_before(aws):
    apply(stage(security={"boundary": False}))
    moto_ext.YOUNG["PutRolePermissionsBoundary"] = [("NoSuchEntity", "policy x does not exist or is not attachable.")]
    apply()
    assert not moto_ext.YOUNG["PutRolePermissionsBoundary"]


def test_the_organisations_boundary_is_there_or_its_name_is_wrong(aws):
    moto_ext.YOUNG["CreateRole"] = [("NoSuchEntity", "policy x does not exist or is not attachable.")] * 2
    with pytest.raises(DeployError, match="does not exist or is not attachable"):
        apply(stage(security={"boundary_arn": "arn:aws:iam::123456789012:policy/organisation"}))
    assert len(moto_ext.YOUNG["CreateRole"]) == 1


def test_a_first_answer_that_knows_nothing_of_the_call_is_no_end(aws, monkeypatch):
    """It looks like an endpoint that has vanished, and like an update that was rolled back."""
    monkeypatch.setattr(moto_sagemaker, "STALE", 3)
    recorder = Recorder()
    apply(recorder=recorder)
    apply(which="b", recorder=recorder)
    calls = [name for name in recorder.writes if name in ("sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint")]
    assert calls == ["sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"]
    assert writes_of(apply, which="b") == []


def test_an_endpoint_out_of_service_is_not_believed_to_be_so_still(aws, monkeypatch):
    """The release that would bring it back has just been sent."""
    apply()
    sagemaker_backends[ACCOUNT][REGION].endpoints["kennel-dev"].endpoint_status = "OutOfService"
    monkeypatch.setattr(moto_sagemaker, "STALE", 3)
    recorder = Recorder()
    apply(which="b", recorder=recorder)
    assert recorder.writes.count("sagemaker:UpdateEndpoint") == 1
    seen = endpoint()
    assert (seen["EndpointStatus"], seen["EndpointConfigName"]) == ("InService", EndpointConfig(context(), release("b")).name)


def test_one_that_stays_out_of_service_is_told(aws, monkeypatch):
    """Nothing begins, as far as anybody can see: not for ever."""
    apply()
    sagemaker_backends[ACCOUNT][REGION].endpoints["kennel-dev"].endpoint_status = "OutOfService"
    monkeypatch.setattr(moto_sagemaker, "STALE", 500)
    with pytest.raises(DeployError, match="ended as OutOfService"):
        apply(which="b")


def test_an_endpoint_that_stays_away_is_believed_to_be_gone(aws, monkeypatch):
    monkeypatch.setattr(moto_sagemaker, "STALE", 50)
    ctx = context()
    with pytest.raises(DeployError, match="ended as Gone"):
        list(stack.engine(ctx, release()).apply())
    assert ctx.clock.monotonic() < 120
