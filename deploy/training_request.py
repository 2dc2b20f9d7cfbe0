"""CreateTrainingJob as data: a pure function of the stage, the names and the run. It can be printed before it is sent.

Limits of the API (100 hyperparameters of 2500 characters, 40 metric definitions, 20 channels) are far from ours.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from containers.core.errors import ConfigError
from containers.core.metrics import sagemaker_definitions
from containers.train.config import TrainConfig
from deploy.config import StageConfig
from deploy.instance_types import has_own_disk
from deploy.names import Names
from deploy.storage import CHECKPOINTS, DATA, TRAINING, tag_list
from deploy.training_tables import InstanceGroup, Training

Request = dict[str, Any]
_RETRIES = 2  # of SageMaker's own faults (InternalServerError), within the time limit


@dataclass(frozen=True, kw_only=True)
class Run:
    """What differs from run to run. `checkpoints` names the run whose checkpoints are continued: itself, or an earlier one."""

    name: str
    image: str
    dataset: str
    channels: tuple[str, ...]
    hyperparameters: TrainConfig
    checkpoints: str


def hyperparameters(config: TrainConfig) -> dict[str, str]:
    """All of them, so that the job's page is the whole truth. SageMaker carries strings only."""
    values = config.model_dump(mode="json")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def go_on(config: StageConfig, run: Run, *flags: str) -> str:
    """The command that goes on from the run's checkpoint: with its settings, where they are not the stage's."""
    stage, own = hyperparameters(config.hyperparameters), hyperparameters(run.hyperparameters)
    changed = [word for name, value in own.items() if value != stage[name] for word in ("--set", f"{name}={value}")]
    words = ("--stage", config.name, "--data", run.dataset, "--resume", run.checkpoints, *changed)
    return shlex.join(("python", "-m", "deploy", "train", *flags, *words))


def check_hosts(config: TrainConfig, hosts: int) -> None:
    """Raises ConfigError where more hosts must be left than the job has: each would refuse, once it is paid for."""
    if hosts > 1 and config.min_hosts > hosts:
        raise ConfigError(f"min_hosts is {config.min_hosts} and the job has {hosts} hosts: lower it, or start more hosts")


def training_job(config: StageConfig, names: Names, run: Run, tags: dict[str, str]) -> Request:
    training, security = config.training, config.security
    stopping: dict[str, Any] = {"MaxRuntimeInSeconds": training.max_runtime_seconds}
    if training.spot:
        stopping["MaxWaitTimeInSeconds"] = training.max_wait_seconds
    output: dict[str, Any] = {"S3OutputPath": names.uri(TRAINING)}
    if security.kms_key_arn:
        output["KmsKeyId"] = security.kms_key_arn
    request: Request = {
        "TrainingJobName": run.name,
        "RoleArn": names.role_arn("train"),
        "AlgorithmSpecification": {
            "TrainingImage": run.image,
            "TrainingInputMode": training.input_mode,
            "MetricDefinitions": sagemaker_definitions(),
        },
        "HyperParameters": hyperparameters(run.hyperparameters),
        "InputDataConfig": [_channel(names.uri(DATA, run.dataset, channel), channel, training) for channel in run.channels],
        "OutputDataConfig": output,
        "ResourceConfig": _resources(config),
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": training.spot,
        "CheckpointConfig": {"S3Uri": names.uri(CHECKPOINTS, run.checkpoints)},
        "TensorBoardOutputConfig": {"S3OutputPath": names.uri(TRAINING, run.name, "tensorboard")},
        "EnableInterContainerTrafficEncryption": training.encrypt_between_hosts and training.hosts > 1,
        "RetryStrategy": {"MaximumRetryAttempts": _RETRIES},
        "Environment": {"KENNEL_LOG_LEVEL": "INFO"},
        "Tags": tag_list(tags),
    }
    if security.subnet_ids:
        groups, subnets = list(security.security_group_ids), list(security.subnet_ids)
        request["VpcConfig"] = {"SecurityGroupIds": groups, "Subnets": subnets}
    return request


def _channel(uri: str, name: str, training: Training) -> dict[str, Any]:
    source: Request = {"S3DataType": "S3Prefix", "S3Uri": f"{uri}/", "S3DataDistributionType": "FullyReplicated"}
    if training.instance_groups:  # every host trains, so every group gets every channel
        source["InstanceGroupNames"] = [group.name for group in training.instance_groups]
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _resources(config: StageConfig) -> dict[str, Any]:
    training = config.training
    resources: dict[str, Any] = {"InstanceType": training.instance_type, "InstanceCount": training.instance_count}
    if training.instance_groups:
        resources = {"InstanceGroups": [_group(group) for group in training.instance_groups]}
    if not all(has_own_disk(group.instance_type) for group in training.machines):
        resources["VolumeSizeInGB"] = training.volume_gb
        if config.security.kms_key_arn:
            resources["VolumeKmsKeyId"] = config.security.kms_key_arn
    if training.keep_alive_seconds:
        resources["KeepAlivePeriodInSeconds"] = training.keep_alive_seconds
    return resources


def _group(group: InstanceGroup) -> dict[str, Any]:
    named = {"InstanceGroupName": group.name, "InstanceType": group.instance_type}
    return named | {"InstanceCount": group.instance_count}
