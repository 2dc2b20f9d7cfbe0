"""The SageMaker Python SDK's local mode, offline, for any image that follows the container contract.

Nothing here knows Kennel: point it at your own image (for `train` its CMD must be train, as ModelTrainer names no command).
Works around what the SDK (3.27) leaves to its caller: it never removes its containers, takes whoever owns the port for the
endpoint, and needs a region though it calls no AWS service.
"""

import contextlib
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

_OFFLINE = Path(tempfile.gettempdir()) / f"sagemaker-sdk-offline-{os.getuid()}.yaml"
_OFFLINE.write_text("SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n")
os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(_OFFLINE)  # else a thread calls STS at each use
os.environ.setdefault("AWS_DEFAULT_REGION", "eu-west-1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

_PROJECT_DIR = "com.docker.compose.project.working_dir"


def containers(client: docker.DockerClient, root: Path) -> list[Container]:
    """What Compose started below `root`, ended or not."""
    return [
        container
        for container in client.containers.list(all=True, filters={"label": _PROJECT_DIR})
        if Path(container.labels[_PROJECT_DIR]).is_relative_to(root)
    ]


def remove_containers(root: Path) -> list[str]:
    """Remove what Compose started below `root`; returns their names."""
    with contextlib.closing(docker.from_env()) as client:
        ours = containers(client, root)
        for container in ours:
            container.remove(force=True, v=True)
    return [container.name for container in ours]


def train(image: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, Any], root: Path, *, hosts: int = 1) -> Path:
    """`ModelTrainer` in LOCAL_CONTAINER mode; returns the model archive. Raises RuntimeError with the job's failure reason.

    Below `root`, afterwards: artifacts/{model,output} and compressed_artifacts/*.tar.gz. Its last component becomes the
    Compose project's name, so it must be unique on the machine. Jobs share host names: run one at a time.
    """
    from sagemaker.core.training.configs import Compute, InputData
    from sagemaker.train.model_trainer import Mode, ModelTrainer

    root = root / f"job-{uuid.uuid4().hex[:8]}"
    root.mkdir(parents=True)
    trainer = ModelTrainer(
        training_image=image,
        training_mode=Mode.LOCAL_CONTAINER,
        base_job_name="local",
        compute=Compute(instance_type="local_cpu", instance_count=hosts),
        hyperparameters=dict(hyperparameters),
        local_container_root=str(root),
    )
    try:
        trainer.train(
            input_data_config=[InputData(channel_name=name, data_source=str(path)) for name, path in channels.items()]
        )
    except RuntimeError as error:  # it names the exit code only
        reason = root / "artifacts" / "output" / "failure"
        raise RuntimeError(f"{error}: {reason.read_text() if reason.exists() else 'no failure file'}") from error
    finally:
        remove_containers(root)
    return root / "compressed_artifacts" / "model.tar.gz"


@contextlib.contextmanager
def clients(root: Path, *, start_seconds: int = 180) -> Iterator[tuple[Any, Any]]:
    """(`sagemaker`, `sagemaker-runtime`) clients with boto3's methods that work on local containers. One endpoint at a time."""
    from sagemaker.core.local.local_session import LocalSession

    session = LocalSession()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    session.config = {
        "local": {"local_code": True, "container_root": str(root), "serving_port": port, "container_config": {"shm_size": "1g"}}
    }
    session.config["local"]["health_check_timeout"] = start_seconds  # read by the SDK, yet refused by its setter's schema
    try:
        yield session.sagemaker_client, session.sagemaker_runtime_client
    finally:
        remove_containers(root)


def training_request(
    name: str, image: str, channels: Mapping[str, Path], hyperparameters: Mapping[str, str], output: Path, *, hosts: int = 1
) -> dict[str, Any]:
    """CreateTrainingJob, as boto3 takes it, with directories where S3 prefixes would be."""
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": image, "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::123456789012:role/local",
        "HyperParameters": dict(hyperparameters),
        "InputDataConfig": [{"ChannelName": name, "DataSource": _directory(path)} for name, path in channels.items()],
        "OutputDataConfig": {"S3OutputPath": f"file://{output}"},
        "ResourceConfig": {"InstanceType": "local", "InstanceCount": hosts, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def _directory(path: Path) -> dict[str, Any]:
    return {"FileDataSource": {"FileDataDistributionType": "FullyReplicated", "FileUri": f"file://{path}"}}


def create_model(sagemaker: Any, name: str, image: str, archive: Path, environment: Mapping[str, str] | None = None) -> None:
    """The archive's whole directory is mounted, so keep it in one of its own."""
    container = {"Image": image, "ModelDataUrl": f"file://{archive}", "Environment": dict(environment or {})}
    sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn="arn:aws:iam::123456789012:role/local")


@contextlib.contextmanager
def endpoint(sagemaker: Any, image: str, archive: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A serving endpoint's name; model, configuration and endpoint are deleted afterwards."""
    name = f"local-{uuid.uuid4().hex[:8]}"
    create_model(sagemaker, name, image, archive, environment)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "local"}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    try:
        yield name
    finally:
        sagemaker.delete_endpoint(EndpointName=name)
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
        sagemaker.delete_model(ModelName=name)


def transform(sagemaker: Any, model: str, folder: Path, output: Path, *, content_type: str) -> None:
    """Batch transform, one request per file directly in `folder`; answers are `output`/NAME.out."""
    sagemaker.create_transform_job(
        TransformJobName=f"{model}-batch",
        ModelName=model,
        BatchStrategy="SingleRecord",
        TransformInput={
            "ContentType": content_type,
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"file://{folder}"}},
        },
        TransformOutput={"S3OutputPath": f"file://{output}", "Accept": "application/json"},
        TransformResources={"InstanceType": "local", "InstanceCount": 1},
    )
