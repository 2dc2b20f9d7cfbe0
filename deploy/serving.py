"""What is served: a release (image, artifact) becomes a SageMaker model and an endpoint configuration.

Both are named after their content, so they never change: creating one that exists is not needed, and an old one is a way back.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from containers.serve.config import PREFIX, ServeConfig
from deploy.context import Context
from deploy.engine import Resource, State, found
from deploy.errors import DeployError
from deploy.instance_types import has_gpu, has_own_disk
from deploy.names import VARIANT
from deploy.storage import ASYNC, CAPTURE, tag_list

_AMI_OF_CUDA = {  # major version → the endpoint machine image whose driver runs it (API reference, InferenceAmiVersion)
    11: None,  # the default image's driver 470
    12: "al2-ami-sagemaker-inference-gpu-3-1",  # driver 550: all of CUDA 12 by minor-version compatibility
    13: "al2023-ami-sagemaker-inference-gpu-4-1",  # driver 580; CUDA 12 images were seen to hang in Creating on it
}


@dataclass(frozen=True, kw_only=True)
class Release:
    """`image` by digest; `model_data` is a model.tar.gz, or for multi-model the prefix of many; `cuda` is the image's label."""

    image: str
    model_data: str
    cuda: str


def inference_ami(instance_type: str, cuda: str) -> str | None:
    """InferenceAmiVersion for an image with CUDA `cuda` ("12.8", "none"); None where none is needed.

    Without it a GPU endpoint gets driver 470, on which a CUDA 12 image hangs in Creating with no log.
    """
    if not has_gpu(instance_type):
        return None
    major = re.match(r"(\d+)", cuda)
    if major is None:
        hint = "use a CPU instance type, or an image built with CUDA"
        raise DeployError("endpoint", f"{instance_type} has a GPU, but the image has no CUDA (label says {cuda!r})", hint=hint)
    if int(major.group(1)) not in _AMI_OF_CUDA:
        hint = "add it to _AMI_OF_CUDA in deploy/serving.py when SageMaker offers a driver for it"
        raise DeployError("endpoint", f"no endpoint machine image is known for CUDA {cuda}", hint=hint)
    return _AMI_OF_CUDA[int(major.group(1))]


def environment(serving: ServeConfig) -> dict[str, str]:
    """The container's variables: only what differs from the server's own defaults, so a new default needs no new model."""
    values = serving.model_dump(mode="json", exclude_defaults=True)
    return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}


class Model(Resource):
    def __init__(self, context: Context, release: Release) -> None:
        super().__init__(context)
        self._sagemaker = context.client("sagemaker")
        self._release = release

    @cached_property
    def request(self) -> State:
        """CreateModel without name and tags."""
        security, endpoint = self.context.config.security, self.context.config.endpoint
        multi = endpoint.kind == "multi-model"
        # The server needs no network; but loading models later does, and serverless endpoints refuse the setting
        isolated = endpoint.kind not in ("multi-model", "serverless")
        container: State = {
            "Image": self._release.image,
            "Mode": "MultiModel" if multi else "SingleModel",
            "ModelDataUrl": self._release.model_data,
            "Environment": environment(self.context.config.serving_on_endpoint),
        }
        request: State = {
            "PrimaryContainer": container,
            "ExecutionRoleArn": self.names.role_arn("serve"),
            "EnableNetworkIsolation": isolated,
        }
        if security.subnet_ids:
            request["VpcConfig"] = {
                "Subnets": list(security.subnet_ids),
                "SecurityGroupIds": list(security.security_group_ids),
            }
        return request

    @property
    def name(self) -> str:
        return self.names.content_name(self.request)

    @property
    def key(self) -> str:
        return f"model/{self.name}"

    def desired(self) -> State:
        return {}

    def observe(self) -> State | None:
        return None if found(self._sagemaker.describe_model, ModelName=self.name) is None else {}

    def create(self) -> None:
        tags = tag_list(self.context.tags | {"cuda": self._release.cuda})
        self.context.patiently(
            "the serve role", lambda: self._sagemaker.create_model(ModelName=self.name, Tags=tags, **self.request)
        )

    def delete(self) -> None:
        self._sagemaker.delete_model(ModelName=self.name)


class EndpointConfig(Resource):
    def __init__(self, context: Context, release: Release) -> None:
        super().__init__(context)
        self._sagemaker = context.client("sagemaker")
        self._release = release
        self._model = Model(context, release)

    @cached_property
    def request(self) -> State:
        """CreateEndpointConfig without name and tags."""
        config, names = self.context.config, self.names
        request: State = {"ProductionVariants": [self._variant()]}
        key = config.security.kms_key_arn
        if key and config.endpoint.kind != "serverless" and not has_own_disk(config.endpoint.instance_type):
            request["KmsKeyId"] = key
        if config.endpoint.kind == "async":
            output: State = {"S3OutputPath": names.uri(ASYNC, "out"), "S3FailurePath": names.uri(ASYNC, "out", "failed")}
            request["AsyncInferenceConfig"] = {
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": config.endpoint.max_concurrency},
                "OutputConfig": output | ({"KmsKeyId": key} if key else {}),
            }
        if config.endpoint.capture_percent:
            request["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": config.endpoint.capture_percent,
                "DestinationS3Uri": names.uri(CAPTURE),
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            } | ({"KmsKeyId": key} if key else {})
        return request

    def _variant(self) -> dict[str, Any]:
        endpoint, scaling = self.context.config.endpoint, self.context.config.scaling
        variant: State = {"VariantName": VARIANT, "ModelName": self._model.name, "InitialVariantWeight": 1.0}
        if endpoint.kind == "serverless":
            limits = {"MemorySizeInMB": endpoint.memory_mb, "MaxConcurrency": endpoint.max_concurrency}
            return variant | {"ServerlessConfig": limits}
        variant |= {
            "InstanceType": endpoint.instance_type,
            "InitialInstanceCount": max(1, scaling.minimum),
            "ContainerStartupHealthCheckTimeoutInSeconds": endpoint.startup_timeout_seconds,
            "ModelDataDownloadTimeoutInSeconds": endpoint.download_timeout_seconds,
        }
        if endpoint.kind == "real-time":
            variant["RoutingConfig"] = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}  # photos differ in cost
        if ami := inference_ami(endpoint.instance_type, self._release.cuda):
            variant["InferenceAmiVersion"] = ami
        return variant

    @property
    def name(self) -> str:
        """Scaling changes the number of instances without a new configuration, so it is no part of the name then."""
        content = self.request
        if self.context.config.scaling.profile != "none":
            variant = {k: v for k, v in content["ProductionVariants"][0].items() if k != "InitialInstanceCount"}
            content = content | {"ProductionVariants": [variant]}
        return self.names.content_name(content)

    @property
    def key(self) -> str:
        return f"endpoint-config/{self.name}"

    def desired(self) -> State:
        return {}

    def observe(self) -> State | None:
        return None if found(self._sagemaker.describe_endpoint_config, EndpointConfigName=self.name) is None else {}

    def create(self) -> None:
        request = self.request | {"EndpointConfigName": self.name, "Tags": tag_list(self.context.tags)}
        self.context.patiently(self._model.key, lambda: self._sagemaker.create_endpoint_config(**request))

    def delete(self) -> None:
        self._sagemaker.delete_endpoint_config(EndpointConfigName=self.name)
