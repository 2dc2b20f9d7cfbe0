"""`train --on local`: SageMaker's local mode on this machine's Docker. The only module that imports the SageMaker SDK, late:
it lives in an environment of its own (requirements/local.lock)."""

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import docker

from containers.train.config import TrainConfig
from deploy.context import Context
from deploy.data import CHANNELS
from deploy.errors import DeployError, Refused
from deploy.training_request import hyperparameters

_PROJECT_DIR = "com.docker.compose.project.working_dir"
_NO_TELEMETRY = "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"


def run(args: argparse.Namespace, context: Context, settings: TrainConfig) -> None:
    """Raises Refused without the SDK, DeployError with the container's reason when training fails."""
    folder = Path(args.data).resolve()
    output = folder.parent / f"{folder.name}-model"
    request = local_request(args.image or "kennel-train:dev", folder, output, settings, context)
    if context.dry_run:
        context.emit(request, lambda: request)
        return
    with tempfile.TemporaryDirectory(prefix="kennel-local-", ignore_cleanup_errors=True) as root:
        session = _session(Path(root), context.region)
        try:
            session.sagemaker_client.create_training_job(**request)
        except RuntimeError as error:
            raise DeployError("local training", str(error), hint="the container's output is above") from error
        finally:
            _remove_containers(Path(root))
    context.emit({"model": str(output / "model.tar.gz")}, lambda: f"wrote {output / 'model.tar.gz'}")


def local_request(image: str, folder: Path, output: Path, settings: TrainConfig, context: Context) -> dict[str, Any]:
    """CreateTrainingJob with directories where S3 prefixes would be. Raises Refused where `folder` has no train/."""
    channels = [channel for channel in CHANNELS if (folder / channel).is_dir()]
    if "train" not in channels:
        raise Refused(str(folder), "holds no train/", hint="--data names a folder with train/CLASS/photo.jpg when --on local")
    return {
        "TrainingJobName": f"local-{context.clock.now():%Y%m%d-%H%M%S}",
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::000000000000:role/local",
        "HyperParameters": hyperparameters(settings),
        "InputDataConfig": [
            {"ChannelName": channel, "DataSource": {"FileDataSource": _source(folder / channel)}} for channel in channels
        ],
        "OutputDataConfig": {"S3OutputPath": f"file://{output}"},
        "ResourceConfig": {"InstanceType": "local", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": context.config.training.max_runtime_seconds},
    }


def _source(folder: Path) -> dict[str, str]:
    return {"FileDataDistributionType": "FullyReplicated", "FileUri": f"file://{folder}"}


def _session(root: Path, region: str) -> Any:
    os.environ.setdefault("AWS_DEFAULT_REGION", region)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    quiet = root / "sagemaker.yaml"
    quiet.write_text(_NO_TELEMETRY, encoding="utf-8")
    os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(quiet)
    try:
        from sagemaker.core.local.local_session import LocalSession
    except ImportError:
        hint = "make a virtual environment of requirements/local.lock and run this command in it"
        raise Refused("local training", "the SageMaker SDK is not installed in this environment", hint=hint) from None
    session = LocalSession()
    local = {"local_code": True, "container_root": str(root), "container_config": {"shm_size": "1g"}}
    session.config = {"local": local}
    return session


def _remove_containers(root: Path) -> None:
    """The SDK leaves what Compose started below `root`."""
    with contextlib.closing(docker.from_env()) as engine:
        for container in engine.containers.list(all=True, filters={"label": _PROJECT_DIR}):
            if Path(container.labels[_PROJECT_DIR]).is_relative_to(root):
                container.remove(force=True, v=True)
