"""The documents themselves: what they refuse. Calls: test_policy_coverage; linters: test_policy_linters."""

import pytest

from deploy import deployer_policies, iam
from tests.support.aws import context, stage
from tests.support.iam_need import Need, granted

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
EVERYTHING_ON = {
    "security": {"kms_key_arn": KEY, "subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
    "endpoint": {"capture_percent": 5},
}


@pytest.fixture(scope="module")
def scope():
    return iam.Scope.of(context().names_in("123456789012"), stage(**EVERYTHING_ON))


def document(scope, duty):
    return deployer_policies.deployer(scope, duty)


OURS, THEIRS = {"aws:ResourceAccount": "123456789012"}, {"aws:ResourceAccount": "999999999999"}
TARGET = "arn:aws:application-autoscaling:eu-west-1:123456789012:scalable-target/0123456789abcdef"
OF_PROD = {"aws:ResourceTag/project": "kennel", "aws:ResourceTag/stage": "prod"}
TAG_AS_OURS = {"aws:RequestTag/project": "kennel", "aws:RequestTag/stage": "dev"}
TAG_AS_PROD = TAG_AS_OURS | {"aws:RequestTag/stage": "prod"}
INSTANCE = {"ec2:InstanceType": "g4dn.2xlarge", "ec2:MetadataHttpTokens": "required"}
OF_EC2 = "arn:aws:ec2:eu-west-1:123456789012"
REFUSED = [
    Need("iam:PassRole", "arn:aws:iam::123456789012:role/Admin", {"iam:PassedToService": "sagemaker.amazonaws.com"}),
    Need("iam:PassRole", "arn:aws:iam::123456789012:role/kennel-dev-serve", {"iam:PassedToService": "ecs.amazonaws.com"}),
    Need(
        "iam:PassRole", "arn:aws:iam::123456789012:role/kennel-prod-serve", {"iam:PassedToService": "sagemaker.amazonaws.com"}
    ),
    Need("iam:CreateRole", "arn:aws:iam::123456789012:role/kennel-dev-x", {}),
    Need("iam:AttachRolePolicy", "arn:aws:iam::123456789012:role/kennel-dev-serve"),
    Need("s3:GetObject", "arn:aws:s3:::kennel-prod-123456789012-eu-west-1/data/a.jpg", OURS),
    Need("s3:GetObject", "arn:aws:s3:::kennel-dev-123456789012-eu-west-1/data/a.jpg", THEIRS),
    Need("s3:PutObject", "arn:aws:s3:::kennel-dev-123456789012-eu-west-1/data/a.jpg", THEIRS),
    Need("s3:ListBucket", "arn:aws:s3:::kennel-dev-123456789012-eu-west-1", THEIRS),
    Need("s3:PutBucketPolicy", "arn:aws:s3:::kennel-dev-123456789012-eu-west-1", THEIRS),
    Need("sagemaker:DeleteEndpoint", "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/kennel-prod"),
    Need("sagemaker:DeleteEndpoint", "arn:aws:sagemaker:us-east-1:123456789012:endpoint/kennel-dev"),
    *(
        Need(f"application-autoscaling:{action}", TARGET, {"application-autoscaling:service-namespace": "sagemaker"} | tags)
        for action in (
            "DeleteScheduledAction",
            "DeregisterScalableTarget",
            "PutScalingPolicy",
            "PutScheduledAction",
            "RegisterScalableTarget",
        )
        for tags in ({}, OF_PROD)
    ),
    Need("application-autoscaling:TagResource", TARGET, OF_PROD | TAG_AS_OURS),
    *(
        Need("ec2:RunInstances", f"{OF_EC2}:instance/*", context)
        for context in (
            INSTANCE,
            INSTANCE | TAG_AS_PROD,
            INSTANCE | TAG_AS_OURS | {"ec2:MetadataHttpTokens": "optional"},
            INSTANCE | TAG_AS_OURS | {"ec2:InstanceType": "p5.48xlarge"},
        )
    ),
    *(
        Need("ec2:RunInstances", f"{OF_EC2}:volume/*", TAG_AS_OURS | encrypted)
        for encrypted in ({}, {"ec2:Encrypted": "false"})
    ),
    *(
        Need(f"ec2:{action}", f"{OF_EC2}:{kind}/x-1", tags)
        for action, kind in (
            ("TerminateInstances", "instance"),
            ("DeleteSecurityGroup", "security-group"),
            ("AuthorizeSecurityGroupIngress", "security-group"),
            ("CreateLaunchTemplateVersion", "launch-template"),
            ("DeleteLaunchTemplate", "launch-template"),
        )
        for tags in ({}, OF_PROD)
    ),
    *(Need("ec2:CreateTags", f"{OF_EC2}:instance/i-1", tags | TAG_AS_OURS) for tags in ({}, OF_PROD)),  # to make it ours
    *(
        Need(f"ec2:{action}", f"{OF_EC2}:{kind}/*", tags)
        for action, kind in (("CreateSecurityGroup", "security-group"), ("CreateLaunchTemplate", "launch-template"))
        for tags in ({}, TAG_AS_PROD)
    ),
    Need("logs:DeleteLogGroup", "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/sagemaker/TrainingJobs"),
    Need("logs:PutRetentionPolicy", "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/sagemaker/TransformJobs:*"),
    *(
        Need(
            f"lambda:{verb}FunctionUrlConfig",
            "arn:aws:lambda:eu-west-1:123456789012:function:kennel-dev-invoke:live",
            {"lambda:FunctionUrlAuthType": "NONE"},
        )
        for verb in ("Create", "Update")
    ),
    *(
        Need(
            "lambda:AddPermission",
            "arn:aws:lambda:eu-west-1:123456789012:function:kennel-dev-invoke:live",
            {"lambda:FunctionUrlAuthType": "NONE"} | principal,
        )
        for principal in ({}, *({"lambda:Principal": who} for who in ("*", "999999999999", "s3.amazonaws.com")))
    ),
    Need("lambda:UpdateFunctionCode", "arn:aws:lambda:eu-west-1:123456789012:function:other"),
    Need("ecr:DeleteRepository", "arn:aws:ecr:eu-west-1:123456789012:repository/kennel/prod/serve"),
]


@pytest.mark.parametrize("need", REFUSED, ids=str)
def test_no_duty_reaches_beyond_its_stage(scope, need):
    assert not granted([document(scope, duty) for duty in deployer_policies.DUTIES], need)


def test_who_may_assume_a_role(scope):
    """SageMaker only for our account; Lambda's documentation promises no key that a condition could look at, EC2 has none."""
    ours = {
        "StringEquals": {"aws:SourceAccount": "123456789012"},
        "ArnLike": {"aws:SourceArn": "arn:aws:sagemaker:eu-west-1:123456789012:*"},
    }
    for principal, service in iam.SERVICE.items():
        (statement,) = iam.trust(scope, principal)["Statement"]
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert statement["Action"] == "sts:AssumeRole"
        assert statement.get("Condition") == (ours if service == "sagemaker" else None), principal


def test_whoever_deploys_cannot_lift_the_boundary(scope):
    everyday = [document(scope, duty) for duty in deployer_policies.DUTIES if duty != "guard"]
    lift = [
        Need("iam:CreatePolicyVersion", scope.boundary),
        Need("iam:DeleteRolePermissionsBoundary", "arn:aws:iam::123456789012:role/kennel-dev-serve"),
    ]
    assert not any(granted(everyday, need) for need in lift)


@pytest.mark.parametrize("principal", iam.PRINCIPALS)
def test_the_boundary_holds_every_role_entirely(scope, principal):
    """Otherwise a role would be refused what its own policy grants."""
    for row in iam.role_policy(scope, principal)["Statement"]:
        values = {key: value for keys in row.get("Condition", {}).values() for key, value in keys.items()}
        seen = {key: value if isinstance(value, str) else value[0] for key, value in values.items()}
        for action in row["Action"]:
            for resource in [row["Resource"]] if isinstance(row["Resource"], str) else row["Resource"]:
                assert granted([iam.boundary(scope)], Need(action, resource, seen)), (action, resource)


@pytest.mark.parametrize("duty", ["foundation", "training", "release", "ec2"])
def test_whoever_names_the_key_may_pass_its_use_on(scope, duty):
    granting = Need("kms:CreateGrant", KEY, {"kms:GrantIsForAWSResource": "true"})
    assert granted([document(scope, duty)], granting)
    assert not granted([document(scope, duty)], Need("kms:CreateGrant", KEY))


def test_a_repository_gives_the_key_back_when_it_is_deleted(scope):
    through_ecr = {"kms:ViaService": "ecr.eu-west-1.amazonaws.com"}
    assert granted([document(scope, "foundation")], Need("kms:RetireGrant", KEY, through_ecr))
    everybody = [document(scope, duty) for duty in deployer_policies.DUTIES]
    for elsewhere in ({}, {"kms:ViaService": "rds.eu-west-1.amazonaws.com"}):
        assert not granted(everybody, Need("kms:RetireGrant", KEY, elsewhere))


def test_an_accounts_first_spot_request_makes_its_role(scope):
    role = "arn:aws:iam::123456789012:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    assert granted(
        [document(scope, "ec2")], Need("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": "spot.amazonaws.com"})
    )


PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer"]
WRITE = ["s3:AbortMultipartUpload", "s3:PutObject"]
LOGS = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
NETWORK = [
    *(f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")),
    *(f"ec2:{verb}NetworkInterface{what}" for verb in ("Create", "Delete") for what in ("", "Permission")),
]
KMS = ["kms:Decrypt", "kms:GenerateDataKey"]
CALLERS = {  # principal → who calls → what. None of it is called by deploy, so nothing here is proved by a recorded call
    "train": {
        "SageMaker pulls the image": PULL,
        "SageMaker brings the photos, and keeps checkpoints and model": ["s3:ListBucket", "s3:GetObject", *WRITE],
        "SageMaker takes away a checkpoint that the job removed": ["s3:DeleteObject"],
        "SageMaker writes the container's output and its metrics": [*LOGS, "cloudwatch:PutMetricData"],
        "SageMaker joins the stage's subnets": NETWORK,
        "S3 and volumes use the stage's key": [*KMS, "kms:CreateGrant"],
        "SageMaker, where the request names it for output": ["kms:Encrypt"],
    },
    "serve": {
        "SageMaker pulls the image": PULL,
        "SageMaker reads the model, and what asynchronous endpoints and transforms are asked": [
            "s3:ListBucket",
            "s3:GetObject",
        ],
        "SageMaker writes their answers and what it captures": WRITE,
        "SageMaker asks the alarms that roll an update back": ["cloudwatch:DescribeAlarms"],
        "SageMaker writes the container's output and its metrics": [*LOGS, "cloudwatch:PutMetricData"],
        "SageMaker joins the stage's subnets": NETWORK,
        "S3 and volumes use the stage's key": [*KMS, "kms:CreateGrant"],
        "SageMaker, where the request names it for output": ["kms:Encrypt"],
    },
    "lambda": {
        "lambda/invoke_endpoint.py": ["sagemaker:InvokeEndpoint", "s3:GetObject"],
        "Lambda writes the function's output into the group that deploy made": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "S3 uses the stage's key": KMS,
    },
    "ec2": {
        "deploy/user_data.sh, docker pull": PULL,
        "deploy/user_data.sh, aws s3 cp and sync": ["s3:ListBucket", "s3:GetObject", "s3:DeleteObject", *WRITE],
        "Docker's awslogs driver, into the group that deploy made": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "S3 uses the stage's key": KMS,
    },
    "ec2serve": {
        "deploy/serve_user_data.sh, docker pull": PULL,
        "deploy/serve_user_data.sh, aws s3 cp": ["s3:GetObject", *WRITE],
        "Docker's awslogs driver, into the group that deploy made": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "S3 uses the stage's key": KMS,
    },
}


def test_an_instance_that_serves_writes_its_own_reports_only(scope):
    role = [iam.role_policy(scope, "ec2serve")]
    runs = "arn:aws:s3:::kennel-dev-123456789012-eu-west-1/ec2"
    assert granted(role, Need("s3:PutObject", f"{runs}/kennel-dev-serve-20261122-000000-ab12/status.json", OURS))
    assert not granted(role, Need("s3:PutObject", f"{runs}/kennel-dev-20261122-000000-ab12/stop", OURS))


@pytest.mark.parametrize("principal", iam.PRINCIPALS)
def test_no_role_trusts_a_bucket_of_the_same_name_in_another_account(scope, principal):
    """Its name can be guessed, and every account may take it."""
    for text in (iam.role_policy(scope, principal), iam.boundary(scope)):
        for row in text["Statement"]:
            if any(action.startswith("s3:") for action in row["Action"]):
                assert row["Condition"]["StringEquals"]["aws:ResourceAccount"] == "123456789012", row["Sid"]


@pytest.mark.parametrize("principal", iam.PRINCIPALS)
def test_each_action_of_a_role_has_somebody_who_calls_it(scope, principal):
    granted_to_it = {action for row in iam.role_policy(scope, principal)["Statement"] for action in row["Action"]}
    assert granted_to_it == {action for actions in CALLERS[principal].values() for action in actions}
