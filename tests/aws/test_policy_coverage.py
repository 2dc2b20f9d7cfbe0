"""Least privilege, both ways: each command's calls are granted by the duties it needs, and nothing is granted for nothing."""

import json

from deploy import __main__ as program
from deploy import deployer_policies, iam
from tests.support.aws import FakeClock, Recorder, SharedSession, client, context, stage
from tests.support.iam_calls import granted, needs
from tests.support.released import archive, push, upload, will_answer

AMI = "/machine-images/test"
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
    "lambda:UpdateFunctionCode": "a new handler, tests/aws/test_updates.py",
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
        if not granted([deployer_policies.deployer(plain, duty) for duty in DUTIES[command]], need)
    }
    assert missing == set()
    documents = [deployer_policies.deployer(plain, duty) for duty in deployer_policies.DUTIES]
    allowed = {action for found in documents for row in found["Statement"] for action in row["Action"]}
    unseen = set(NOT_SEEN_HERE) - {"kms:Decrypt", "kms:GenerateDataKey"}
    unexplained = sorted(allowed - used - unseen) + sorted(unseen - (allowed - used))
    assert not unexplained, "granted though no command calls it, or explained though it needs none: " + ", ".join(unexplained)
