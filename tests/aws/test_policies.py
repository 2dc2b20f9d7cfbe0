"""Least privilege, both ways: each command's calls are granted by the duties it needs, and nothing is granted for nothing."""

import json
import re
from pathlib import Path

import pytest

from deploy import __main__ as program
from deploy import deployer_policies, iam, policies
from tests.support.aws import FakeClock, Recorder, SharedSession, client, context, stage
from tests.support.iam_calls import Need, granted, needs
from tests.support.released import archive, push, upload, will_answer

AMI = "/machine-images/test"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
EVERYTHING_ON = {
    "security": {"kms_key_arn": KEY, "subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
    "endpoint": {"capture_percent": 5},
}
DUTIES = {  # command → the deployer documents that it needs
    "plan": ["watch"],
    "status": ["watch"],
    "smoke": ["watch", "release"],
    "apply": ["guard", "watch", "foundation", "release"],
    "release": ["watch", "release"],
    "rollback": ["watch", "release"],
    "transform": ["watch", "data", "release"],
    "data": ["watch", "data"],
    "train": ["watch", "training"],
    "tune": ["watch", "training"],
    "train-ec2": ["watch", "ec2"],
    "destroy": ["guard", "watch", "foundation", "release", "ec2"],
}
NOT_SEEN_HERE = {
    "ecr:BatchCheckLayerAvailability": "docker push, through the registry's own protocol",
    "ecr:CompleteLayerUpload": "docker push",
    "ecr:InitiateLayerUpload": "docker push",
    "ecr:UploadLayerPart": "docker push",
    "ecr:GetAuthorizationToken": "`images`: tested against a real registry, tests/aws/test_images.py",
    "iam:CreatePolicyVersion": "the boundary changes only with a new version of Kennel",
    "iam:DeletePolicyVersion": "likewise",
    "iam:DeleteRolePermissionsBoundary": "only when [security] boundary is turned off",
    "kms:Decrypt": "AWS calls it on behalf of S3",
    "kms:GenerateDataKey": "AWS calls it on behalf of S3",
    "lambda:UpdateFunctionCode": "a new handler, tests/aws/test_apply.py",
    "logs:DescribeLogStreams": "`logs`, tests/aws/test_logs.py",
    "logs:GetLogEvents": "`logs`, tests/aws/test_logs.py",
    "s3:AbortMultipartUpload": "an upload that was interrupted",
    "sagemaker:StopTrainingJob": "Ctrl-C during `train`, tests/aws/test_training.py",
    "sagemaker:DescribeHyperParameterTuningJob": "`tune` while it runs, tests/aws/test_tuning.py",
    "sagemaker:StopHyperParameterTuningJob": "Ctrl-C during `tune`",
    "sagemaker:UpdateEndpointWeightsAndCapacities": "AWS asks for it when a variant is registered for scaling",
    "ec2:CreateTags": "RunInstances and CreateSecurityGroup tag what they make",
    "ec2:TerminateInstances": "`destroy` while a run is alive, tests/aws/test_ec2.py",
}


@pytest.fixture(scope="module")
def scope():
    return iam.Scope.of(context().names_in("123456789012"), stage(**EVERYTHING_ON))


def document(scope, duty):
    return deployer_policies.deployer(scope, duty)


class Needing(Recorder):
    """Asks what IAM would ask, when it would."""

    def __init__(self) -> None:
        super().__init__()
        self.needs, self.names = [], context().names

    def __call__(self, **event) -> None:
        super().__call__(**event)
        self.needs += needs(self.calls[-1], self.names)


class Life:
    """Runs commands and remembers what each needed."""

    def __init__(self, folder) -> None:
        self.folder, self.needs = folder, {}

    def write(self, **tables) -> None:
        lines = ['[stage]\nregion = "eu-west-1"\nowner = "vision"\nprice_ceiling_per_month = 9000']
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        (self.folder / "dev.toml").write_text("\n".join(lines))

    def run(self, *words, duty=None) -> None:
        SharedSession.recorder = recorder = Needing()
        words = [*words, "--environments", str(self.folder), "--json"]
        assert program.main(words, session=SharedSession(), clock=FakeClock()) == 0, words
        SharedSession.recorder = None
        self.needs.setdefault(duty or words[0], []).extend(recorder.needs)


def live(life, tmp_path) -> None:
    """A stage's life from the first plan to the last destroy."""
    life.write(function={"url": True, "provisioned_maximum": 6, "reserved_concurrency": 30})
    life.run("plan")
    life.run("apply")
    train_image, image = push("train"), push()
    photos = tmp_path / "dogs"
    for name in ("beagle", "poodle"):
        (photos / "train" / name).mkdir(parents=True)
        (photos / "train" / name / "1.jpg").write_bytes(b"photo")
    life.run("data", str(photos), "--name", "dogs")
    life.run("train", "--data", "dogs", "--image", train_image, "--detach")
    search = ["--range", "learning_rate=1e-4:1e-2:log"]
    life.run("tune", "--data", "dogs", "--image", train_image, "--detach", *search)
    ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    client("ssm").put_parameter(Name=AMI, Value=ami, Type="String")
    artifact = upload()
    will_answer()
    life.run("release", "--image", image, "--model-data", artifact)
    will_answer()
    life.run("release", "--image", push(content="b"))
    will_answer()
    life.run("smoke")
    life.run("rollback")
    life.run("status")
    life.run("transform", str(photos / "train"))
    job = client("sagemaker").list_training_jobs()["TrainingJobSummaries"][0]["TrainingJobName"]
    while (done := client("sagemaker").describe_training_job(TrainingJobName=job))["TrainingJobStatus"] == "InProgress":
        pass
    bucket, _, key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    client("s3").put_object(Bucket=bucket, Key=key, Body=archive())
    will_answer()
    life.run("release", "--job", job)
    drift()
    life.write(
        function={"provisioned_concurrency": 2, "memory_mb": 256, "url": True},
        endpoint={"instance_type": "ml.g4dn.2xlarge", "keep_releases": 1},
    )
    life.run("apply")
    life.write(function={"provisioned_concurrency": 0}, scaling={"profile": "none"})
    life.run("apply")
    life.write(ec2={"ami_parameter": AMI})
    life.run("train", "--on", "ec2", "--data", "dogs", "--image", train_image, "--detach", duty="train-ec2")
    instances = client("ec2").describe_instances()["Reservations"][0]["Instances"]
    client("ec2").terminate_instances(InstanceIds=[row["InstanceId"] for row in instances])
    life.run("destroy", "--yes", "--delete-data")


def drift() -> None:
    client("ecr").put_image_tag_mutability(repositoryName="kennel/dev/serve", imageTagMutability="MUTABLE")
    scan = {"scanOnPush": False}
    client("ecr").put_image_scanning_configuration(repositoryName="kennel/dev/serve", imageScanningConfiguration=scan)
    roles = client("iam")
    roles.delete_role_permissions_boundary(RoleName="kennel-dev-train")
    roles.update_assume_role_policy(RoleName="kennel-dev-ec2", PolicyDocument=json.dumps(iam_trust_of_nobody()))
    client("lambda").update_function_url_config(FunctionName="kennel-dev-invoke", Qualifier="live", AuthType="NONE")


def iam_trust_of_nobody():
    principal = {"Service": "ec2.amazonaws.com"}
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": principal, "Action": "sts:AssumeRole"}]}


def test_each_command_is_granted_what_it_calls_and_nothing_is_granted_for_nothing(aws, tmp_path):
    life = Life(tmp_path)
    live(life, tmp_path)
    plain = iam.Scope.of(context().names, stage(ec2={"ami_parameter": AMI}))
    used = {need.action for found in life.needs.values() for need in found}
    missing = {
        f"{command}: {need}"
        for command, found in life.needs.items()
        for need in found
        if not granted([document(plain, duty) for duty in DUTIES[command]], need)
    }
    assert missing == set()
    allowed = {
        action for duty in deployer_policies.DUTIES for row in document(plain, duty)["Statement"] for action in row["Action"]
    }
    unseen = set(NOT_SEEN_HERE) - {"kms:Decrypt", "kms:GenerateDataKey"}
    unexplained = sorted(allowed - used - unseen) + sorted(unseen - (allowed - used))
    assert not unexplained, "granted though no command calls it, or explained though it needs none: " + ", ".join(unexplained)


REFUSED = [
    Need("iam:PassRole", "arn:aws:iam::123456789012:role/Admin", {"iam:PassedToService": "sagemaker.amazonaws.com"}),
    Need("iam:PassRole", "arn:aws:iam::123456789012:role/kennel-dev-serve", {"iam:PassedToService": "ecs.amazonaws.com"}),
    Need(
        "iam:PassRole", "arn:aws:iam::123456789012:role/kennel-prod-serve", {"iam:PassedToService": "sagemaker.amazonaws.com"}
    ),
    Need("iam:CreateRole", "arn:aws:iam::123456789012:role/kennel-dev-x", {}),
    Need("iam:AttachRolePolicy", "arn:aws:iam::123456789012:role/kennel-dev-serve"),
    Need("s3:GetObject", "arn:aws:s3:::kennel-prod-123456789012-eu-west-1/data/a.jpg"),
    Need("sagemaker:DeleteEndpoint", "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/kennel-prod"),
    Need("sagemaker:DeleteEndpoint", "arn:aws:sagemaker:us-east-1:123456789012:endpoint/kennel-dev"),
    Need("lambda:UpdateFunctionCode", "arn:aws:lambda:eu-west-1:123456789012:function:other"),
    Need("ecr:DeleteRepository", "arn:aws:ecr:eu-west-1:123456789012:repository/kennel/prod/serve"),
]


@pytest.mark.parametrize("need", REFUSED, ids=str)
def test_no_duty_reaches_beyond_its_stage(scope, need):
    assert not granted([document(scope, duty) for duty in deployer_policies.DUTIES], need)


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


def test_an_accounts_first_spot_request_makes_its_role(scope):
    role = "arn:aws:iam::123456789012:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    assert granted(
        [document(scope, "ec2")], Need("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": "spot.amazonaws.com"})
    )


def test_every_document_fits_one_managed_policy(scope):
    for name, found in policies.every_document(scope).items():
        assert len(json.dumps(found, separators=(",", ":"))) <= 6144, name


BY_NATURE = {
    (
        "deployer-foundation",
        "RESOURCE_POLICY_PRIVILEGE_ESCALATION",
    ): "who writes the bucket's policy could open it to themselves",
    (
        "deployer-ec2",
        "RESOURCE_MISMATCH",
    ): "one action over several statements, as AWS documents; public parameters have no account",
}


def test_the_linter_finds_nothing(scope):
    parliament = pytest.importorskip("parliament", reason="parliament is not installed", exc_type=ImportError)
    found = [
        (name, row.issue, str(row.detail))
        for name, text in policies.every_document(scope).items()
        if not name.startswith("trust-")
        for row in parliament.analyze_policy_string(json.dumps(text)).findings
        if (name, row.issue) not in BY_NATURE
    ]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("region", "partition", "suffix"),
    [("cn-north-1", "aws-cn", "amazonaws.com.cn"), ("us-gov-west-1", "aws-us-gov", "amazonaws.com")],
)
def test_other_partitions(region, partition, suffix):
    names = context(stage(stage={"region": region})).names_in("123456789012")
    assert names.registry == f"123456789012.dkr.ecr.{region}.{suffix}"
    assert names.service("sagemaker") == "sagemaker.amazonaws.com"
    text = json.dumps(policies.every_document(iam.Scope.of(names, stage(stage={"region": region}))))
    assert set(re.findall(r"arn:([a-z-]+):", text)) == {partition}


def test_no_partition_is_written_by_hand():
    sources = [path for path in Path(program.__file__).parent.rglob("*.py") if path.name != "training_local.py"]
    for path in sources:  # local mode needs some role's name and asks no AWS about it
        assert not re.search(r"arn:aws:", path.read_text(encoding="utf-8")), f"{path}: use Names.arn"
