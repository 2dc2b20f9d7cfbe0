"""`train` on SageMaker: what is sent, and what people see until the end. The cloud's side is moto's, or played by `Cloud`."""

import argparse
import json
from types import SimpleNamespace

import pytest
from botocore.validate import ParamValidator

from containers.core.errors import ConfigError
from containers.core.metrics import METRICS
from containers.train.config import TrainConfig
from deploy import training
from deploy.context import Context
from deploy.errors import DeployError
from deploy.training_progress import Progress, ask
from deploy.training_request import Run, training_job
from tests.support import aws as fake
from tests.support import strict_parameters

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


def ready(**options) -> Context:
    """A stage with a dataset and two images, in moto."""
    bucket, context = fake.bare_bucket(), fake.context(**options)
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


def test_a_dry_run_prints_the_request_and_sends_nothing(aws, capsys):
    context = ready(dry_run=True, as_json=True)
    training.run(arguments("--resume", "kennel-dev-0"), context)
    sent = json.loads(capsys.readouterr().out)
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


class Cloud:
    """SageMaker and CloudWatch for one job: each poll is the next of `states`, with the log lines that came by then."""

    def __init__(self, states: list[tuple[str, list[str]]], reason: str = "") -> None:
        self.states, self.reason, self.stopped, self.polls, self.lines = states, reason, [], 0, []

    def client(self, service: str, **_: object) -> "Cloud":
        return self

    def describe_training_job(self, *, TrainingJobName: str) -> dict:
        state, lines = self.states[min(self.polls, len(self.states) - 1)]
        self.lines += lines if self.polls < len(self.states) else []
        self.polls += 1
        answer = {"TrainingJobName": TrainingJobName, "TrainingJobStatus": state, "SecondaryStatus": "Training"}
        return answer | ({"FailureReason": self.reason} if self.reason else {})

    def describe_log_streams(self, **_: object) -> dict:
        return {"logStreams": [{"logStreamName": "kennel-dev-1/algo-1"}]}

    def get_paginator(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(paginate=lambda **_: [self.describe_log_streams()])

    def get_log_events(self, *, nextToken: str = "0", **_: object) -> dict:
        new = self.lines[int(nextToken) :]
        events = [{"timestamp": 1, "message": text} for text in new]
        return {"events": events, "nextForwardToken": str(int(nextToken) + len(new))}

    def stop_training_job(self, *, TrainingJobName: str) -> None:
        self.stopped.append(TrainingJobName)


def epoch(number: int) -> str:
    return json.dumps({"level": "INFO", "event": "epoch", "epoch": number, "train_loss": 1 / number, "valid_accuracy": 0.5})


def watching(cloud: Cloud) -> Context:
    return fake.context(session=cloud)


RUN = Run(
    name="kennel-dev-1", image=IMAGE, dataset="dogs", channels=(), hyperparameters=TrainConfig(), checkpoints="kennel-dev-1"
)


def conclude(context: Context, decide=lambda: "leave") -> Progress:
    job = training.SageMakerJob(context, RUN.name)
    progress = training.follow(context, job, decide)
    context.names = context.names_in("123456789012")
    training.conclude(context, RUN, job.seen, progress.result)
    return progress


def test_epochs_and_warnings_are_shown_as_they_come_and_the_result_at_the_end():
    noise, warning = json.dumps({"level": "INFO", "event": "noise"}), json.dumps({"level": "WARNING", "event": "bad photo"})
    result = json.dumps({"level": "INFO", "event": "result", "epoch": 2, "test_accuracy": 0.87})
    cloud = Cloud(
        [("InProgress", [noise]), ("InProgress", [epoch(1), warning]), ("Completed", [epoch(2)]), ("Completed", [result])]
    )
    context = watching(cloud)
    progress = conclude(context)
    assert [row["epoch"] for row in progress.epochs] == [1, 2]
    assert "bad photo" in context.console.text
    assert "train_loss=0.5" in context.console.text
    assert "noise" not in context.console.text
    assert "0.87" in context.out.text  # though that line came after the job's end
    assert "s3://kennel-dev-123456789012-eu-west-1/training/kennel-dev-1/output/model.tar.gz" in context.out.text


def test_at_a_terminal_the_table_is_live_and_leaves_the_screen_to_a_question():
    cloud = Cloud([("InProgress", [epoch(1)]), ("InProgress", []), ("Completed", [epoch(2)])])
    context = watching(cloud)
    context.console = fake.Screen(force_terminal=True)
    interrupted_once(context)

    def decide() -> str:
        context.console.print("the question")
        return "stay"

    conclude(context, decide)
    assert "the question" in context.console.text
    assert "valid accuracy" in context.console.text
    assert "kennel-dev-1: Completed, Training" in context.console.text


def test_a_failed_job_is_an_error_with_its_own_reason():
    with pytest.raises(DeployError, match="DataError: 40 of 100 photos") as caught:
        conclude(watching(Cloud([("Failed", [])], reason="DataError: 40 of 100 photos cannot be read")))
    assert "--resume kennel-dev-1" in caught.value.hint


def interrupted_once(context: Context) -> None:
    """The first wait is ended by Ctrl-C."""

    def interrupt() -> None:
        context.clock.on_sleep = lambda: None
        raise KeyboardInterrupt

    context.clock.on_sleep = interrupt


def test_ctrl_c_can_stop_the_job_and_is_watched_to_its_end():
    cloud = Cloud([("InProgress", [epoch(1)]), ("Stopping", []), ("Stopped", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "stop")
    assert cloud.stopped == [RUN.name]
    assert "ended as Stopped" in context.console.text
    assert "--resume kennel-dev-1" in context.console.text


def test_ctrl_c_can_leave_it_running():
    cloud = Cloud([("InProgress", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "leave")
    assert cloud.stopped == []
    assert "goes on without us" in context.console.text


def test_ctrl_c_can_be_taken_back():
    cloud = Cloud([("InProgress", []), ("Completed", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "stay")
    assert "Completed" in context.out.text


def test_where_nobody_can_be_asked_the_job_goes_on():
    assert ask(watching(Cloud([]))) == "leave"


def test_the_live_table_has_the_newest_epochs():
    progress = Progress("job")
    progress.epochs = [{"epoch": number, "train_loss": 0.25} for number in range(1, 31)]
    screen = fake.Screen()
    screen.print(progress.table())
    assert "30" in screen.text
    assert "0.25" in screen.text
    assert " 3 " not in screen.text
