"""`train` on SageMaker: what is sent."""

import argparse
import json

import pytest
from botocore.validate import ParamValidator

from containers.core.errors import ConfigError
from containers.core.metrics import METRICS
from containers.train.config import TrainConfig
from deploy import training
from deploy.context import Context
from deploy.errors import DeployError
from deploy.training_request import Run, training_job
from tests.support import aws as fake
from tests.support import moto_ext, strict_parameters

KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/kennel/dev/train@sha256:" + "a" * 64


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    return parser.parse_args(["--data", "dogs", *flags])


def request(**tables) -> dict:
    config = fake.stage(**tables)
    names = fake.context(config).names_in(fake.ACCOUNT)
    run = Run(
        name="kennel-dev-1",
        image=IMAGE,
        dataset="dogs",
        channels=("train", "valid"),
        hyperparameters=config.hyperparameters,
        checkpoints="kennel-dev-0",
    )
    return training_job(config, names, run, {"project": "kennel"})


def validated(sent: dict) -> dict:
    """As boto3 checks it, and the enumerations, patterns and limits that boto3 does not check."""
    shape = fake.client("sagemaker").meta.service_model.operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(sent, shape)
    assert not report.has_errors(), report.generate_report()
    assert list(strict_parameters._problems(shape, sent, "CreateTrainingJob")) == []
    return sent


def test_the_seeds_job_two_spot_machines_with_checkpoints_and_our_metrics():
    sent = validated(request())
    assert sent["ResourceConfig"] == {"InstanceType": "ml.g4dn.2xlarge", "InstanceCount": 2}  # its disk is its own
    assert sent["EnableManagedSpotTraining"]
    assert sent["StoppingCondition"] == {"MaxRuntimeInSeconds": 21600, "MaxWaitTimeInSeconds": 43200}
    bucket = "s3://kennel-dev-123456789012-eu-west-1"
    assert sent["CheckpointConfig"]["S3Uri"] == f"{bucket}/checkpoints/kennel-dev-0"
    assert sent["OutputDataConfig"] == {"S3OutputPath": f"{bucket}/training"}
    sources = {row["ChannelName"]: row["DataSource"]["S3DataSource"]["S3Uri"] for row in sent["InputDataConfig"]}
    assert sources == {"train": f"{bucket}/data/dogs/train/", "valid": f"{bucket}/data/dogs/valid/"}
    assert {row["Name"] for row in sent["AlgorithmSpecification"]["MetricDefinitions"]} == {metric.name for metric in METRICS}
    assert sent["RoleArn"] == "arn:aws:iam::123456789012:role/kennel-dev-train"
    assert "VpcConfig" not in sent


def test_options_of_security_network_and_warm_pools():
    sent = validated(
        request(
            training={
                "instance_type": "ml.p3.2xlarge",
                "spot": False,
                "keep_alive_seconds": 600,
                "encrypt_between_hosts": True,
                "volume_gb": 50,
            },
            security={"kms_key_arn": KEY, "subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
        )
    )
    resources = {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 2, "VolumeSizeInGB": 50, "VolumeKmsKeyId": KEY}
    assert sent["ResourceConfig"] == resources | {"KeepAlivePeriodInSeconds": 600}
    assert sent["OutputDataConfig"]["KmsKeyId"] == KEY
    assert sent["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    assert sent["EnableInterContainerTrafficEncryption"]
    assert sent["StoppingCondition"] == {"MaxRuntimeInSeconds": 21600}


@pytest.mark.parametrize("kind", ["ml.g4dn.xlarge", "ml.g5.2xlarge", "ml.g6e.xlarge", "ml.p4de.24xlarge", "ml.m5d.large"])
def test_types_with_a_disk_of_their_own_get_neither_size_nor_key(kind):
    sent = request(training={"instance_type": kind}, security={"kms_key_arn": KEY})
    assert set(sent["ResourceConfig"]) == {"InstanceType", "InstanceCount"}


@pytest.mark.parametrize("kind", ["ml.m5.large", "ml.c5.xlarge", "ml.p3.2xlarge", "ml.p2.xlarge"])
def test_other_types_get_both(kind):
    sent = request(training={"instance_type": kind}, security={"kms_key_arn": KEY})
    assert {"VolumeSizeInGB", "VolumeKmsKeyId"} <= set(sent["ResourceConfig"])


GROUPS = [
    {"name": "big", "instance_type": "ml.g4dn.12xlarge"},
    {"name": "small", "instance_type": "ml.g4dn.xlarge", "instance_count": 2},
]


def test_a_heterogeneous_cluster_whose_channels_go_to_every_group():
    sent = validated(request(training={"instance_groups": GROUPS, "encrypt_between_hosts": True}))
    assert sent["ResourceConfig"] == {
        "InstanceGroups": [
            {"InstanceGroupName": "big", "InstanceType": "ml.g4dn.12xlarge", "InstanceCount": 1},
            {"InstanceGroupName": "small", "InstanceType": "ml.g4dn.xlarge", "InstanceCount": 2},
        ]
    }
    for channel in sent["InputDataConfig"]:
        assert channel["DataSource"]["S3DataSource"]["InstanceGroupNames"] == ["big", "small"]
    assert sent["EnableInterContainerTrafficEncryption"]
    assert "InstanceGroupNames" not in request()["InputDataConfig"][0]["DataSource"]["S3DataSource"]


def test_groups_whose_disks_are_not_their_own_get_a_volume_and_its_key():
    kinds = [{"name": "a", "instance_type": "ml.m5.xlarge"}, {"name": "b", "instance_type": "ml.c5.xlarge"}]
    sent = validated(request(training={"instance_groups": kinds, "volume_gb": 50}, security={"kms_key_arn": KEY}))
    assert (sent["ResourceConfig"]["VolumeSizeInGB"], sent["ResourceConfig"]["VolumeKmsKeyId"]) == (50, KEY)
    kinds[1] = {"name": "b", "instance_type": "ml.c5d.xlarge"}
    assert request(training={"instance_groups": kinds})["ResourceConfig"]["VolumeSizeInGB"] == 100


def test_hyperparameters_arrive_as_training_reads_them():
    from containers.core.settings import parse

    sent = request(hyperparameters={"architecture": "resnet18", "deterministic": True, "learning_rate": 3e-4})
    assert sent["HyperParameters"]["deterministic"] == "true"
    assert all(isinstance(value, str) for value in sent["HyperParameters"].values())
    expected = TrainConfig(architecture="resnet18", deterministic=True, learning_rate=3e-4)
    assert parse(TrainConfig, sent["HyperParameters"], where="test") == expected


def test_flags_of_one_run():
    config = training.adjusted(fake.stage(), arguments("--instances", "3", "--instance-type", "ml.g5.xlarge", "--no-spot"))
    assert (config.training.instance_count, config.training.instance_type, config.training.spot) == (3, "ml.g5.xlarge", False)
    with pytest.raises(ConfigError, match="instance_count"):
        training.adjusted(fake.stage(), arguments("--instances", "0"))
    assert training.tuned(TrainConfig(), ["epochs=3", "pretrained=none"]) == TrainConfig(epochs=3, pretrained="none")
    for wrong, says in ((["epoch=3"], "did you mean epochs"), (["epochs"], "NAME=VALUE")):
        with pytest.raises(ConfigError, match=says):
            training.tuned(TrainConfig(), wrong)


def test_flags_take_the_place_of_groups_together_or_not_at_all():
    stage = fake.stage(training={"instance_groups": GROUPS, "max_runtime_seconds": 60})
    assert training.adjusted(stage, arguments("--no-spot")).training.said == "1 × ml.g4dn.12xlarge + 2 × ml.g4dn.xlarge"
    one = training.adjusted(stage, arguments("--instances", "3", "--instance-type", "ml.g5.xlarge")).training
    assert (one.said, one.max_runtime_seconds) == ("3 × ml.g5.xlarge", 60)
    for flags in (("--instances", "3"), ("--instance-type", "ml.g5.xlarge")):
        with pytest.raises(ConfigError, match="take their place together"):
            training.adjusted(stage, arguments(*flags))


def ready(config=None, **options) -> Context:
    """A stage with a dataset and two images, in moto."""
    bucket, context = fake.bare_bucket(), fake.context(config, **options)
    for key in ("train/pug/a.jpg", "test/pug/b.jpg"):
        context.client("s3").put_object(Bucket=bucket, Key=f"data/dogs/{key}", Body=b"x")
    ecr, repository = context.client("ecr"), context.names.repository("train")
    ecr.create_repository(repositoryName=repository)
    for digest in ("1", "2"):
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": digest}})
        ecr.put_image(repositoryName=repository, imageManifest=manifest, imageTag=digest, imageDigest=f"sha256:{digest * 64}")
    return context


def test_the_command_sends_the_job_and_reports_its_end(aws):
    context = ready()
    training.run(arguments("--set", "epochs=3"), context)
    (row,) = context.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    job = context.client("sagemaker").describe_training_job(TrainingJobName=row["TrainingJobName"])
    assert job["HyperParameters"]["epochs"] == "3"
    assert [channel["ChannelName"] for channel in job["InputDataConfig"]] == ["train", "test"]
    assert "@sha256:" in job["AlgorithmSpecification"]["TrainingImage"]
    assert row["TrainingJobName"] in context.out.text


def test_the_command_starts_instance_groups_and_looks_at_the_quota_of_each_type(aws):
    context = ready(fake.stage(training={"instance_groups": [*GROUPS, GROUPS[1] | {"name": "more"}]}))
    few = "ml.g4dn.xlarge for spot training job usage"
    moto_ext.QUOTAS[few] = 3
    with pytest.raises(DeployError, match=r"needs 4 × ml\.g4dn\.xlarge"):
        training.run(arguments(), context)
    moto_ext.QUOTAS[few] = 4
    training.run(arguments(), context)
    (row,) = context.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    job = context.client("sagemaker").describe_training_job(TrainingJobName=row["TrainingJobName"])
    assert [group["InstanceGroupName"] for group in job["ResourceConfig"]["InstanceGroups"]] == ["big", "small", "more"]
    assert "1 × ml.g4dn.12xlarge + 2 × ml.g4dn.xlarge + 2 × ml.g4dn.xlarge" in context.console.text


def test_more_hosts_cannot_be_left_than_there_are(aws):
    context = ready(as_json=True, dry_run=True)
    with pytest.raises(ConfigError, match="min_hosts is 3 and the job has 2 hosts"):
        training.run(arguments("--set", "min_hosts=3"), context)
    training.run(arguments("--set", "min_hosts=3", "--instances", "3"), context)
    training.run(arguments("--set", "min_hosts=3", "--instances", "1"), context)  # what several began, gone on with by one


def test_a_dry_run_prints_the_request_and_sends_nothing(aws, capsys):
    context = ready(dry_run=True, as_json=True)
    training.run(arguments("--resume", "kennel-dev-0"), context)
    sent = validated(json.loads(capsys.readouterr().out)["create_training_job"])
    assert sent["CheckpointConfig"]["S3Uri"].endswith("/checkpoints/kennel-dev-0")
    assert context.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


def test_without_an_image_or_with_one_by_tag_nothing_is_sent(aws):
    context = ready()
    with pytest.raises(DeployError, match="digest"):
        training.run(arguments("--image", "registry/train:latest"), context)
    context.client("ecr").delete_repository(repositoryName=context.names.repository("train"), force=True)
    context.client("ecr").create_repository(repositoryName=context.names.repository("train"))
    with pytest.raises(DeployError, match="holds no image"):
        training.run(arguments(), context)
