"""The engine and its resources against a fake account: what is written, in which order, and how drift is repaired."""

import pytest

from deploy import autoscaling
from deploy.errors import Refused
from tests.support.applied import FULL, apply, destroy, plan, writes_of
from tests.support.aws import Recorder, client, context, everything, stage


def test_a_plan_writes_nothing(aws):
    recorder = Recorder()
    assert {step.action for step in plan(stage(**FULL), recorder=recorder)} <= {"create", "keep"}
    assert recorder.writes == []
    assert not any(everything().values())


def test_a_second_apply_writes_nothing(aws):
    first = writes_of(apply, stage(**FULL))
    full = everything()
    assert len(first) > 40
    assert writes_of(apply, stage(**FULL)) == []
    assert everything() == full
    destroy()
    assert not any(everything().values())


def test_everything_that_can_carry_tags_does(aws):
    recorder = Recorder()
    apply(stage(**FULL), recorder=recorder)
    untagged = {
        call.operation
        for call in recorder.calls
        if call.operation.startswith(("Create", "Put", "Register")) and "kennel" not in str(_tags(call.parameters))
    }
    assert untagged == {
        "CreateBucket",  # tagged by the next call
        "CreateAlias", "CreateFunctionUrlConfig",  # parts of the function
        "PutBucketEncryption", "PutBucketLifecycleConfiguration", "PutBucketPolicy", "PutBucketVersioning",
        "PutPublicAccessBlock", "PutLifecyclePolicy", "PutRetentionPolicy", "PutRolePolicy", "PutScalingPolicy",
        "PutScheduledAction",  # parts of the scaling target
        "PutFunctionConcurrency", "PutProvisionedConcurrencyConfig",
    }  # fmt: skip


def _tags(parameters):
    return parameters.get("Tags") or parameters.get("tags") or parameters.get("Tagging")


DRIFTS = [
    ("s3", "delete_public_access_block", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("s3", "delete_bucket_policy", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("s3", "delete_bucket_lifecycle", {"Bucket": "kennel-dev-123456789012-eu-west-1"}),
    ("ecr", "put_image_tag_mutability", {"repositoryName": "kennel/dev/serve", "imageTagMutability": "MUTABLE"}),
    ("iam", "put_role_policy", {"RoleName": "kennel-dev-serve", "PolicyName": "kennel",
        "PolicyDocument": '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'}),
    ("iam", "delete_role_permissions_boundary", {"RoleName": "kennel-dev-train"}),
    ("logs", "put_retention_policy", {"logGroupName": "/aws/lambda/kennel-dev-invoke", "retentionInDays": 1}),
    ("application-autoscaling", "register_scalable_target", {"MinCapacity": 2, "MaxCapacity": 9,
        "ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "ResourceId": "endpoint/kennel-dev/variant/main"}),
    ("lambda", "update_function_configuration", {"FunctionName": "kennel-dev-invoke", "MemorySize": 128}),
    ("lambda", "put_function_concurrency", {"FunctionName": "kennel-dev-invoke", "ReservedConcurrentExecutions": 50}),
    ("lambda", "remove_permission", {"FunctionName": "kennel-dev-invoke", "Qualifier": "live", "StatementId": "url-invoke"}),
    ("cloudwatch", "delete_alarms", {"AlarmNames": ["kennel-dev-endpoint-latency"]}),
]  # fmt: skip


def test_drift_is_repaired_with_exactly_the_missing_calls(aws):
    apply(stage(**FULL))
    for service, operation, arguments in DRIFTS:
        getattr(client(service), operation)(**arguments)
    assert writes_of(apply, stage(**FULL)) == [
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "ecr:PutImageTagMutability",
        "s3:PutPublicAccessBlock",
        "s3:PutBucketLifecycleConfiguration",
        "s3:PutBucketPolicy",
        "monitoring:PutMetricAlarm",
        "application-autoscaling:RegisterScalableTarget",
        "logs:PutRetentionPolicy",
        "lambda:UpdateFunctionConfiguration",
        "lambda:PutFunctionConcurrency",
        "lambda:AddPermission",
    ]
    assert writes_of(apply, stage(**FULL)) == []


NOBODY = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"sts:AssumeRole"}]}'
WIDE = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
BUCKET = {"Bucket": "kennel-dev-123456789012-eu-west-1"}
FUNCTION = {"FunctionName": "kennel-dev-invoke"}
TARGET = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
          "ResourceId": "endpoint/kennel-dev/variant/main"}  # fmt: skip
ONE_BY_ONE = [  # what somebody did by hand, and all that apply then writes
    ("s3", "put_bucket_versioning", BUCKET | {"VersioningConfiguration": {"Status": "Suspended"}}, ["s3:PutBucketVersioning"]),
    ("s3", "delete_bucket_encryption", BUCKET, ["s3:PutBucketEncryption"]),
    ("s3", "delete_bucket_tagging", BUCKET, ["s3:PutBucketTagging"]),
    ("ecr", "put_image_scanning_configuration", {"repositoryName": "kennel/dev/train",
        "imageScanningConfiguration": {"scanOnPush": False}}, ["ecr:PutImageScanningConfiguration"]),
    ("ecr", "delete_lifecycle_policy", {"repositoryName": "kennel/dev/train"}, ["ecr:PutLifecyclePolicy"]),
    ("ecr", "delete_repository", {"repositoryName": "kennel/dev/train"}, ["ecr:CreateRepository", "ecr:PutLifecyclePolicy"]),
    ("iam", "update_assume_role_policy", {"RoleName": "kennel-dev-serve", "PolicyDocument": NOBODY},
        ["iam:UpdateAssumeRolePolicy"]),
    ("iam", "delete_role_policy", {"RoleName": "kennel-dev-ec2", "PolicyName": "kennel"}, ["iam:PutRolePolicy"]),
    ("iam", "put_role_policy", {"RoleName": "kennel-dev-ec2", "PolicyName": "by-hand", "PolicyDocument": WIDE},
        ["iam:DeleteRolePolicy"]),
    ("iam", "untag_role", {"RoleName": "kennel-dev-ec2", "TagKeys": ["stage"]}, ["iam:TagRole"]),
    ("iam", "remove_role_from_instance_profile", {"InstanceProfileName": "kennel-dev-ec2", "RoleName": "kennel-dev-ec2"},
        ["iam:AddRoleToInstanceProfile"]),
    ("iam", "create_policy_version", {"PolicyArn": "arn:aws:iam::123456789012:policy/kennel-dev-boundary",
        "PolicyDocument": WIDE, "SetAsDefault": True}, ["iam:CreatePolicyVersion"]),
    ("logs", "delete_log_group", {"logGroupName": "/kennel/dev/ec2"}, ["logs:CreateLogGroup", "logs:PutRetentionPolicy"]),
    ("logs", "delete_retention_policy", {"logGroupName": "/aws/sagemaker/Endpoints/kennel-dev"}, ["logs:PutRetentionPolicy"]),
    ("cloudwatch", "disable_alarm_actions", {"AlarmNames": ["kennel-dev-function-errors"]}, ["monitoring:PutMetricAlarm"]),
    ("application-autoscaling", "delete_scaling_policy", TARGET | {"PolicyName": "SageMakerEndpointInvocationScalingPolicy"},
        ["application-autoscaling:PutScalingPolicy"]),
    ("application-autoscaling", "delete_scheduled_action", TARGET | {"ScheduledActionName": "kennel-dev-mornings"},
        ["application-autoscaling:PutScheduledAction"]),
    ("application-autoscaling", "put_scheduled_action", TARGET | {"ScheduledActionName": "kennel-dev-evenings",
        "ScalableTargetAction": {"MinCapacity": 9, "MaxCapacity": 9}}, ["application-autoscaling:PutScheduledAction"]),
    ("lambda", "update_alias", FUNCTION | {"Name": "live", "FunctionVersion": "$LATEST"}, ["lambda:UpdateAlias"]),
    ("lambda", "delete_provisioned_concurrency_config", FUNCTION | {"Qualifier": "1"},
        ["lambda:PutProvisionedConcurrencyConfig"]),
    ("lambda", "delete_function_concurrency", FUNCTION, ["lambda:PutFunctionConcurrency"]),
    ("lambda", "update_function_url_config", FUNCTION | {"Qualifier": "live", "AuthType": "NONE"},
        ["lambda:UpdateFunctionUrlConfig"]),
]  # fmt: skip


def test_each_drift_alone_is_repaired_with_exactly_its_calls(aws):
    apply(stage(**FULL))
    written = {}
    for service, operation, arguments, _ in ONE_BY_ONE:
        getattr(client(service), operation)(**arguments)
        written[operation] = writes_of(apply, stage(**FULL))
    assert written == {operation: wanted for _, operation, _, wanted in ONE_BY_ONE}
    assert writes_of(apply, stage(**FULL)) == []


def attach() -> str:
    """A managed policy by hand; its ARN."""
    arn = client("iam").create_policy(PolicyName="by-hand", PolicyDocument=WIDE)["Policy"]["Arn"]
    client("iam").attach_role_policy(RoleName="kennel-dev-serve", PolicyArn=arn)
    return arn


def test_a_policy_that_somebody_attached_to_a_role_is_in_the_plan_and_taken_off(aws):
    apply()
    arn = attach()
    (step,) = [step for step in plan() if step.action != "keep"]
    assert (step.key, step.changes["others"].seen) == ("role/kennel-dev-serve", [arn])
    assert writes_of(apply) == ["iam:DetachRolePolicy"]
    assert writes_of(apply) == []


def test_a_role_with_an_attached_policy_can_be_destroyed(aws):
    apply()
    attach()
    destroy()
    assert everything()["roles"] == []
    assert everything()["policies"] == ["by-hand"]


def test_tags_of_somebody_else_are_left_alone_and_ours_follow_the_file(aws):
    apply()
    theirs = [{"Key": "cost-center", "Value": "42"}]
    bucket = client("s3").get_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1")["TagSet"]
    client("s3").put_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1", Tagging={"TagSet": bucket + theirs})
    client("iam").tag_role(RoleName="kennel-dev-serve", Tags=theirs)
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:kennel-dev-invoke"
    client("lambda").tag_resource(Resource=arn, Tags={"cost-center": "42"})
    assert writes_of(apply) == []
    moved = stage(stage={"owner": "platform"})
    of_iam = ["iam:TagPolicy", *["iam:TagRole"] * 5, *["iam:TagInstanceProfile"] * 2]
    assert writes_of(apply, moved) == [*of_iam, "s3:PutBucketTagging", "lambda:TagResource"]
    assert writes_of(apply, moved) == []
    tags = client("s3").get_bucket_tagging(Bucket="kennel-dev-123456789012-eu-west-1")["TagSet"]
    assert {"Key": "cost-center", "Value": "42"} in tags


def test_defaults_that_aws_adds_to_a_scaling_policy_are_no_drift():
    seen = {"TargetValue": 30.0, "DisableScaleIn": False}
    assert autoscaling.known(seen, {"TargetValue": 30.0}) == {"TargetValue": 30.0}
    assert autoscaling.known(seen, {"TargetValue": 30.0, "ScaleInCooldown": 30}) != {"TargetValue": 30.0}


def test_the_order_of_an_alarms_dimensions_is_no_drift(aws):
    """To CloudWatch they are a set."""
    apply()
    (alarm,) = client("cloudwatch").describe_alarms(AlarmNames=["kennel-dev-endpoint-5xx"])["MetricAlarms"]
    sent = {name: alarm[name] for name in (
        "AlarmName", "AlarmDescription", "ActionsEnabled", "AlarmActions", "MetricName", "Namespace", "Statistic", "Dimensions",
        "Period", "EvaluationPeriods", "DatapointsToAlarm", "Threshold", "ComparisonOperator", "TreatMissingData",
    )}  # fmt: skip
    client("cloudwatch").put_metric_alarm(**sent | {"Dimensions": sent["Dimensions"][::-1]})
    assert writes_of(apply) == []


def test_credentials_of_another_account_are_refused(aws):
    with pytest.raises(Refused, match="belong to account 123456789012"):
        _ = context(stage(stage={"account": "999999999999"})).names
