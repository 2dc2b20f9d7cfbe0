"""Least privilege, both ways: each command's calls are granted by the duties it needs, and nothing is granted for nothing."""

import os

import pytest

from deploy import __main__ as program
from deploy import deployer_policies, iam, policies
from deploy.deployer_policies import DUTIES as DOCUMENTS
from tests.support import docker_socket, moto_ext
from tests.support.aws import REGION, SharedSession, client, context, stage
from tests.support.duties import NEEDED, held_to
from tests.support.iam_need import granted
from tests.support.life import AMI, Life, live

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
GROUPS = ("/aws/lambda/kennel-dev-invoke", "/aws/sagemaker/Endpoints/kennel-dev", "/kennel/dev/ec2")
UNUSED = {}  # document.statement: action → why it is granted though no recorded call of that document's commands uses it
GROUP = "of the two forms in which AWS writes a log group's ARN, the other: which one is asked for differs by action"
OTHERS = "photos that no command puts there: `aws s3 cp` does, for the Lambda's S3 event and for an asynchronous endpoint"
ELSEWHERE = {  # document.statement: resource → why its actions are granted there though no recorded call uses one
    **{
        f"{duty}: arn:aws:logs:eu-west-1:123456789012:log-group:{group}": GROUP
        for duty, groups in {
            "watch.Logs": (*GROUPS, "/aws/sagemaker/TrainingJobs", "/aws/sagemaker/TransformJobs"),
            "foundation.LogGroups": GROUPS,
        }.items()
        for group in groups
    },
    "data.Objects: arn:aws:s3:::kennel-dev-123456789012-eu-west-1/inbox/*": OTHERS,
    "data.Objects: arn:aws:s3:::kennel-dev-123456789012-eu-west-1/async/in/*": OTHERS,
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
    """With a Docker engine that is played, and a docker command that builds at once."""
    folder = tmp_path_factory.mktemp("stage")
    (folder / "docker").write_text("#!/bin/sh\n")
    (folder / "docker").chmod(0o755)
    with moto_ext.account(), pytest.MonkeyPatch.context() as patch, docker_socket.engine(patch) as engine:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        lived = Life(folder, engine)
        live(lived, folder)
        return lived


@pytest.fixture
def documents(life):
    config = stage(ec2={"ami_parameter": AMI}, security={"kms_key_arn": life.key})
    scope = iam.Scope.of(context().names_in("123456789012"), config)
    return {duty: deployer_policies.deployer(scope, duty) for duty in DOCUMENTS}


def test_the_life_runs_every_command(life):
    assert set(life.needs) == set(NEEDED)
    assert {name.removesuffix("-ec2") for name in NEEDED} == set(program.COMMANDS)


def test_each_command_is_granted_what_it_calls(life, documents):
    refused, _ = judged(documents, life)
    assert not refused, ", ".join(sorted(refused))


def test_nothing_is_granted_for_nothing(life, documents):
    """Statement by statement: the same action in two documents must be used through both."""
    _, unused = judged(documents, life)
    over, explained = sorted(unused - set(UNUSED)), sorted(set(UNUSED) - unused)
    assert not over, "granted though no command calls it: " + ", ".join(over)
    assert not explained, "explained though it needs none: " + ", ".join(explained)


def nowhere_used(documents, life) -> set[str]:
    """`document.statement: resource` of every resource of a statement on which no command with that duty does anything."""
    found = set()
    for duty, text in documents.items():
        needed = {str(need): need for command, needs in life.needs.items() if duty in NEEDED[command] for need in needs}
        for row in text["Statement"]:
            for resource in [row["Resource"]] if isinstance(row["Resource"], str) else row["Resource"]:
                alone = [{"Statement": [row | {"Resource": resource}]}]
                if not any(need.action in row["Action"] and granted(alone, need) for need in needed.values()):
                    found.add(f"{duty}.{row['Sid']}: {resource}")
    return found


def test_nothing_is_granted_on_a_resource_for_nothing(life, documents):
    assert nowhere_used(documents, life) == set(ELSEWHERE)


def test_a_resource_too_many_is_seen(life, documents):
    row, more = statement(documents, "training", "Train"), "arn:aws:sagemaker:eu-west-1:123456789012:model/kennel-dev-*"
    row["Resource"] = [*row["Resource"], more]
    assert nowhere_used(documents, life) - set(ELSEWHERE) == {f"training.Train: {more}"}


def statement(documents, duty, sid):
    return next(row for row in documents[duty]["Statement"] if row["Sid"] == sid)


def test_a_grant_that_is_missing_or_too_narrow_is_seen(life, documents):
    statement(documents, "release", "Serve")["Action"].remove("sagemaker:UpdateEndpoint")
    statement(documents, "data", "Objects")["Resource"] = "arn:aws:s3:::kennel-dev-123456789012-eu-west-1/inbox/*"
    statement(documents, "training", "PassTrain")["Condition"] = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    statement(documents, "ec2", "RunTagged")["Condition"]["StringLike"] = {"ec2:InstanceType": "p5.*"}
    statement(documents, "ec2", "RunEncrypted")["Resource"] = "arn:aws:ec2:us-east-1:123456789012:volume/*"
    statement(documents, "images", "Push")["Action"].remove("ecr:InitiateLayerUpload")
    statement(documents, "ec2", "OursOnly")["Condition"] = {"StringEquals": {"aws:ResourceTag/stage": "prod"}}
    seen = {text.partition(" on ")[0] for text in judged(documents, life)[0]}
    assert "release: sagemaker:UpdateEndpoint" in seen
    assert "data: s3:PutObject" in seen
    assert "train: iam:PassRole" in seen
    assert "images: ecr:InitiateLayerUpload" in seen
    assert {"train-ec2: ec2:RunInstances", "destroy: ec2:TerminateInstances"} <= seen
    assert "apply: s3:PutObject" not in seen


def test_a_grant_too_many_is_seen(life, documents):
    """A new action, and an action that is used already but not by this document's commands."""
    statement(documents, "watch", "Bucket")["Action"].append("s3:GetBucketAcl")
    statement(documents, "images", "Push")["Action"].append("ecr:DescribeImages")
    seen = judged(documents, life)[1] - set(UNUSED)
    assert seen == {"watch.Bucket: s3:GetBucketAcl", "images.Push: ecr:DescribeImages"}


def test_a_command_that_calls_what_it_may_not_fails_its_test(aws):
    """Every test of this folder that runs a command is held to this."""
    with held_to(["plan"], stage()):
        client("s3").list_buckets()  # a test's own look
    with (
        pytest.raises(AssertionError, match=r"plan may not s3:CreateBucket on arn:aws:s3:::kennel"),
        held_to(["plan"], stage()),
    ):
        SharedSession().client("s3").create_bucket(Bucket="kennel", CreateBucketConfiguration={"LocationConstraint": REGION})


def test_no_action_is_a_pattern():
    """A pattern would always look used."""
    scope = iam.Scope.of(context().names_in("123456789012"), stage(security={"kms_key_arn": KEY}))
    for name, text in policies.every_document(scope).items():
        for row in text["Statement"]:
            assert "*" not in "".join(row["Action"]), name
            assert "NotAction" not in row
            assert "NotResource" not in row
