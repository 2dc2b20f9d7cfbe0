"""Least privilege, both ways: each command's calls are granted by the duties it needs, and nothing is granted for nothing."""

import pytest

from deploy import __main__ as program
from deploy import deployer_policies, iam, policies
from deploy.deployer_policies import DUTIES as DOCUMENTS
from tests.support import moto_ext
from tests.support.aws import context, stage
from tests.support.iam_need import granted
from tests.support.life import AMI, Life, live

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
NEEDED = {  # command → the deployer documents that it needs
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
    "release-ec2": ["watch", "release", "ec2"],
    "logs": ["watch"],
    "policies": ["watch"],
    "export-cfn": ["watch"],
    "costs": [],
    "simulate": [],
    "destroy": ["guard", "watch", "foundation", "training", "release", "ec2"],
}
NOT_RUN = {
    "images": "docker pushes through the registry's own protocol: tests/aws/test_images.py",
    "loadtest": "InvokeEndpoint as `smoke` calls it, from many threads: tests/unit/deploy/test_loadtest.py",
}
OF_THE_KEY = "AWS asks for it on behalf of the caller when a volume uses the key; no call of ours names it"
PUSH = "docker push, through the registry's own protocol"
UNUSED = {  # document.statement: action → why it is granted though no recorded call of that document's commands uses it
    "ec2.Key: kms:GenerateDataKey": "of the object with which Ctrl-C asks the nodes to stop: tests/aws/test_ec2_runs.py",
    **{f"{duty}.KeyFacts: kms:DescribeKey": OF_THE_KEY for duty in ("training", "ec2")},
    **{f"{duty}.KeyGrant: kms:CreateGrant": OF_THE_KEY for duty in ("training", "ec2")},
    **{
        f"ec2.KeyOfDisks: kms:{action}": OF_THE_KEY
        for action in ("Decrypt", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo")
    },
    "images.Login: ecr:GetAuthorizationToken": "`images`, as tests/aws/test_ecr_login.py calls it",
    "images.Push: ecr:BatchCheckLayerAvailability": PUSH,
    "images.Push: ecr:BatchGetImage": PUSH,
    "images.Push: ecr:CompleteLayerUpload": PUSH,
    "images.Push: ecr:GetDownloadUrlForLayer": PUSH,
    "images.Push: ecr:InitiateLayerUpload": PUSH,
    "images.Push: ecr:PutImage": PUSH,
    "images.Push: ecr:UploadLayerPart": PUSH,
    "training.Train: sagemaker:StopHyperParameterTuningJob": "Ctrl-C during `tune`: tests/aws/test_tuning.py",
    "watch.Jobs: sagemaker:DescribeHyperParameterTuningJob": "`tune` while it runs: tests/aws/test_tuning.py",
    "release.Serve: sagemaker:StopTransformJob": "`destroy` while a transform runs: tests/aws/test_destroy.py",
    "release.ManyModels: s3:PutObject": "a release of a multi-model endpoint copies the artifact: tests/aws/test_release.py",
    "release.Serve: sagemaker:UpdateEndpointWeightsAndCapacities": "AWS asks for it when a variant is registered for scaling",
    "ec2.Runs: s3:PutObject": "Ctrl-C asks the nodes to stop: tests/aws/test_ec2_runs.py",
    "ec2.RoleOfSpot: iam:CreateServiceLinkedRole": "EC2 makes it at an account's first spot request",
}


def grants(documents, need) -> set[str]:
    """`document.statement: action` of everything that allows `need`."""
    return {
        f"{duty}.{row['Sid']}: {need.action}"
        for duty, text in documents.items()
        for row in text["Statement"]
        if need.action in row["Action"] and granted([{"Statement": [row]}], need)
    }


def judged(documents, life) -> tuple[set[str], set[str]]:
    """(calls that the documents of their command's duties refuse, grants that no command with that duty needs)."""
    refused, used = set(), set()
    for command, found in life.needs.items():
        held = {duty: documents[duty] for duty in NEEDED[command]}
        for need in {str(need): need for need in found}.values():
            by = grants(held, need)
            used |= by
            if not by:
                refused.add(f"{command}: {need}")
    every = {
        f"{duty}.{row['Sid']}: {action}"
        for duty, text in documents.items()
        for row in text["Statement"]
        for action in row["Action"]
    }
    return refused, every - used


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    with moto_ext.account():
        folder = tmp_path_factory.mktemp("stage")
        lived = Life(folder)
        live(lived, folder)
        return lived


@pytest.fixture
def documents(life):
    config = stage(ec2={"ami_parameter": AMI}, security={"kms_key_arn": life.key})
    scope = iam.Scope.of(context().names_in("123456789012"), config)
    return {duty: deployer_policies.deployer(scope, duty) for duty in DOCUMENTS}


def test_the_life_runs_every_command(life):
    assert {name.removesuffix("-ec2") for name in life.needs} == set(program.COMMANDS) - set(NOT_RUN)


def test_each_command_is_granted_what_it_calls(life, documents):
    refused, _ = judged(documents, life)
    assert not refused, ", ".join(sorted(refused))


def test_nothing_is_granted_for_nothing(life, documents):
    """Statement by statement: the same action in two documents must be used through both."""
    _, unused = judged(documents, life)
    over, explained = sorted(unused - set(UNUSED)), sorted(set(UNUSED) - unused)
    assert not over, "granted though no command calls it: " + ", ".join(over)
    assert not explained, "explained though it needs none: " + ", ".join(explained)


def statement(documents, duty, sid):
    return next(row for row in documents[duty]["Statement"] if row["Sid"] == sid)


def test_a_grant_that_is_missing_or_too_narrow_is_seen(life, documents):
    statement(documents, "release", "Serve")["Action"].remove("sagemaker:UpdateEndpoint")
    statement(documents, "data", "Objects")["Resource"] = "arn:aws:s3:::kennel-dev-123456789012-eu-west-1/inbox/*"
    statement(documents, "training", "PassTrain")["Condition"] = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    statement(documents, "ec2", "RunTagged")["Condition"]["StringLike"] = {"ec2:InstanceType": "p5.*"}
    statement(documents, "ec2", "RunEncrypted")["Resource"] = "arn:aws:ec2:us-east-1:123456789012:volume/*"
    statement(documents, "ec2", "OursOnly")["Condition"] = {"StringEquals": {"aws:ResourceTag/stage": "prod"}}
    seen = {text.partition(" on ")[0] for text in judged(documents, life)[0]}
    assert "release: sagemaker:UpdateEndpoint" in seen
    assert "data: s3:PutObject" in seen
    assert "train: iam:PassRole" in seen
    assert {"train-ec2: ec2:RunInstances", "destroy: ec2:TerminateInstances"} <= seen
    assert "apply: s3:PutObject" not in seen


def test_a_grant_too_many_is_seen(life, documents):
    """A new action, and an action that is used already but not by this document's commands."""
    statement(documents, "watch", "Bucket")["Action"].append("s3:GetBucketAcl")
    statement(documents, "images", "Push")["Action"].append("ecr:DescribeImages")
    seen = judged(documents, life)[1] - set(UNUSED)
    assert seen == {"watch.Bucket: s3:GetBucketAcl", "images.Push: ecr:DescribeImages"}


def test_no_action_is_a_pattern():
    """A pattern would always look used."""
    scope = iam.Scope.of(context().names_in("123456789012"), stage(security={"kms_key_arn": KEY}))
    for name, text in policies.every_document(scope).items():
        for row in text["Statement"]:
            assert "*" not in "".join(row["Action"]), name
            assert "NotAction" not in row
            assert "NotResource" not in row
