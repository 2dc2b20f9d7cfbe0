"""SageMaker: UpdateEndpoint, stopping jobs, states that take a few describes, and refusals of what AWS refuses."""

import copy

from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.core.responses import ActionResult, EmptyResult
from moto.ecr.models import ecr_backends
from moto.sagemaker.exceptions import ResourceInUseException, ValidationError
from moto.sagemaker.models import FakeEndpoint, FakeEndpointConfig
from moto.sagemaker.models import SageMakerModelBackend as Backend
from moto.sagemaker.responses import SageMakerResponse as Response

POLLS = 2
"""Describes before a transition completes."""
STALE = 0
"""Describes after CreateEndpoint or UpdateEndpoint that still answer as before it."""
FAIL: dict[str, str] = {}
"""Endpoint or job name → why its next create, update or run fails."""

plain = {
    name: getattr(Backend, name)
    for name in (
        "create_model", "create_endpoint_config", "create_endpoint", "describe_endpoint", "delete_endpoint",
        "create_training_job", "describe_training_job", "create_hyper_parameter_tuning_job",
        "describe_hyper_parameter_tuning_job",
    )
}  # fmt: skip


def install() -> None:
    for function in (
        create_model, create_endpoint_config, create_endpoint, describe_endpoint, delete_endpoint, update_endpoint,
        create_training_job, describe_training_job, stop_training_job, create_hyper_parameter_tuning_job,
        describe_hyper_parameter_tuning_job,
    ):  # fmt: skip
        setattr(Backend, function.__name__, function)
    Response.update_endpoint = respond_update_endpoint
    Response.stop_training_job = respond_stop_training_job
    Response.stop_transform_job = respond_stop_transform_job
    Response.stop_hyper_parameter_tuning_job = respond_stop_tuning_job
    FakeEndpoint.response_object = property(endpoint_response)
    FakeEndpointConfig.validate_instance_type = lambda self, instance_type: None  # its list is stale: no g5, no g6


def schedule(thing, *stages):
    """`stages`: (describes until then, attributes to set). One is consumed after the other."""
    thing.upcoming = list(stages)


def advance(thing) -> None:
    upcoming = getattr(thing, "upcoming", [])
    if not upcoming:
        return
    left, attributes = upcoming[0]
    if left > 0:
        upcoming[0] = (left - 1, attributes)
        return
    for name, value in attributes.items():
        setattr(thing, name, value)
    upcoming.pop(0)


def create_model(self, model_name, *args, **kwargs):
    if model_name in self._models:
        raise ValidationError(message=f'Cannot create already existing model "{model_name}".')
    refuse_if_oci(self, kwargs.get("primary_container") or {})
    return plain["create_model"](self, model_name, *args, **kwargs)


def refuse_if_oci(self, container) -> None:
    """Of an image in the account's ECR (aws/amazon-sagemaker-feedback issue 180)."""
    repository, _, digest = container.get("Image", "").partition("/")[2].partition("@")
    found = ecr_backends[self.account_id][self.region_name].repositories.get(repository)
    for image in found.images if found else []:
        if image.get_image_digest() == digest and "oci" in str(image.image_manifest_media_type):
            kind = f"Unsupported manifest media type {image.image_manifest_media_type} for image {container['Image']}"
            raise ValidationError(message=f"{kind}. Ensure that valid manifest media type is used for specified image.")


def create_endpoint_config(self, endpoint_config_name, production_variants, *args, **kwargs):
    if endpoint_config_name in self.endpoint_configs:
        raise ValidationError(message=f'Cannot create already existing endpoint configuration "{endpoint_config_name}".')
    for variant in production_variants:
        if variant["ModelName"] not in self._models:
            raise ValidationError(message=f'Could not find model "{variant["ModelName"]}".')
    return plain["create_endpoint_config"](self, endpoint_config_name, production_variants, *args, **kwargs)


def create_endpoint(self, endpoint_name, *args, **kwargs):
    if endpoint_name in self.endpoints:
        raise ValidationError(message=f'Cannot create already existing endpoint "{endpoint_name}".')
    endpoint = plain["create_endpoint"](self, endpoint_name, *args, **kwargs)
    endpoint.endpoint_status, endpoint.stale = "Creating", STALE
    reason = FAIL.pop(endpoint_name, None)
    after = {"endpoint_status": "Failed", "failure_reason": reason} if reason else {"endpoint_status": "InService"}
    schedule(endpoint, (POLLS, after))
    return endpoint


def endpoint_response(self):
    body = {name: value for name, value in self.gen_response_object().items() if value not in (None, [None])}
    for ours in ("Upcoming", "PendingConfig", "Stale", "Was"):
        body.pop(ours, None)
    if getattr(self, "pending_config", None):
        body["PendingDeploymentSummary"] = {"EndpointConfigName": self.pending_config}
    body["EndpointArn"] = body.pop("Arn")
    return body


def describe_endpoint(self, endpoint_name):
    endpoint = self.endpoints.get(endpoint_name)
    if endpoint is not None and getattr(endpoint, "stale", 0) > 0:
        endpoint.stale -= 1
        if endpoint.endpoint_status == "Creating":
            raise ValidationError(message=f'Could not find endpoint "{endpoint_name}".')
        before = copy.copy(endpoint)
        before.endpoint_status, before.pending_config = endpoint.was, None
        return before.response_object
    if endpoint is not None:
        advance(endpoint)
        if endpoint.endpoint_status == "gone":
            self.endpoints.pop(endpoint_name)
    return plain["describe_endpoint"](self, endpoint_name)


def delete_endpoint(self, endpoint_name):
    """Refused while in transition; takes its scalable targets with it."""
    endpoint = self.endpoints.get(endpoint_name)
    if endpoint is None:
        plain["delete_endpoint"](self, endpoint_name)
        return
    if endpoint.endpoint_status in ("Creating", "Updating", "RollingBack", "Deleting"):
        raise ValidationError(message=f'Cannot update in-progress endpoint "{endpoint.arn}".')
    endpoint.endpoint_status = "Deleting"
    schedule(endpoint, (POLLS, {"endpoint_status": "gone"}))
    scaling, prefix = scaling_of(self), f"endpoint/{endpoint_name}/variant/"
    for targets in scaling.targets.values():
        for resource in [name for name in targets if name.startswith(prefix)]:
            targets.pop(resource)
    for key in [key for key, policy in scaling.policies.items() if policy.resource_id.startswith(prefix)]:
        scaling.policies.pop(key)


def update_endpoint(self, endpoint_name, config_name, retain_all, excluded):
    endpoint = self.endpoints.get(endpoint_name)
    if endpoint is None:
        raise ValidationError(message=f'Could not find endpoint "{endpoint_name}".')
    if endpoint.endpoint_status not in ("InService", "OutOfService"):
        raise ValidationError(message=f'Cannot update in-progress endpoint "{endpoint.arn}".')
    if config_name == endpoint.endpoint_config_name:
        raise ValidationError(message="Cannot update an endpoint to its own endpoint configuration")
    config = self.describe_endpoint_config(config_name)
    refuse_if_scaled(self, endpoint, config)
    variants = endpoint._process_production_variants(config["ProductionVariants"])
    live = {variant["VariantName"]: variant for variant in endpoint.production_variants}
    for variant in variants:
        before = live.get(variant["VariantName"], {})
        if retain_all and "DesiredInstanceCount" not in excluded and "DesiredInstanceCount" in before:
            variant |= {name: before[name] for name in ("CurrentInstanceCount", "DesiredInstanceCount")}
    endpoint.was, endpoint.stale = endpoint.endpoint_status, STALE
    endpoint.endpoint_status, endpoint.pending_config = "Updating", config_name
    reason = FAIL.pop(endpoint_name, None)
    if reason:  # a rollback by alarm ends InService, on the old configuration
        rolled_back = {"endpoint_status": "InService", "failure_reason": reason, "pending_config": None}
        schedule(endpoint, (POLLS, {"endpoint_status": "RollingBack"}), (1, rolled_back))
    else:
        done = {"endpoint_status": "InService", "endpoint_config_name": config_name, "production_variants": variants}
        schedule(endpoint, (POLLS, done | {"failure_reason": None, "pending_config": None}))
    return endpoint


def refuse_if_scaled(self, endpoint, config) -> None:
    """AWS refuses to change the type of a variant that is registered with Application Auto Scaling."""
    new = {variant["VariantName"]: variant for variant in config["ProductionVariants"]}
    old = self.describe_endpoint_config(endpoint.endpoint_config_name)["ProductionVariants"]
    for variant in old:
        resource = f"endpoint/{endpoint.endpoint_name}/variant/{variant['VariantName']}"
        same = new.get(variant["VariantName"], {}).get("InstanceType") == variant.get("InstanceType")
        if not same and any(resource in targets for targets in scaling_of(self).targets.values()):
            message = f'The variant(s) "{resource}" must be deregistered as scalable targets with AWS Auto Scaling first'
            raise ValidationError(message=message)


def create_training_job(self, *args, **kwargs):
    name, stopping = kwargs["training_job_name"], kwargs.get("stopping_condition") or {}
    if name in self.training_jobs:
        raise ResourceInUseException(message=f"Training job names must be unique: {name}")
    too_short = stopping.get("MaxWaitTimeInSeconds", 0) < stopping.get("MaxRuntimeInSeconds", 86400)
    if kwargs.get("enable_managed_spot_training") and too_short:
        raise ValidationError(message="Invalid MaxWaitTimeInSeconds: it must not be below MaxRuntimeInSeconds")
    job = plain["create_training_job"](self, *args, **kwargs)
    reason = FAIL.pop(name, None)
    end = "Failed" if reason else "Completed"
    job.training_job_status, job.secondary_status = "InProgress", "Starting"
    after = {"training_job_status": end, "secondary_status": end} | ({"failure_reason": reason} if reason else {})
    schedule(job, (1, {"secondary_status": "Training"}), (POLLS, after))
    return job


def describe_training_job(self, training_job_name):
    if training_job_name in self.training_jobs:
        advance(self.training_jobs[training_job_name])
    body = dict(plain["describe_training_job"](self, training_job_name))
    body.pop("Upcoming", None)
    return body


def stop_training_job(self, name):
    job = self.training_jobs.get(name)
    if job is None:
        raise ValidationError(message="Requested resource not found.")
    if job.training_job_status != "InProgress":
        raise ValidationError(message=f"The training job is in status {job.training_job_status}")
    job.training_job_status = "Stopping"
    schedule(job, (POLLS, {"training_job_status": "Stopped", "secondary_status": "Stopped"}))


def create_hyper_parameter_tuning_job(self, hyper_parameter_tuning_job_name, *args, **kwargs):
    arn = plain["create_hyper_parameter_tuning_job"](self, hyper_parameter_tuning_job_name, *args, **kwargs)
    job = self.hyper_parameter_tuning_jobs[hyper_parameter_tuning_job_name]
    job.hyper_parameter_tuning_job_status = "InProgress"
    schedule(job, (POLLS, {"hyper_parameter_tuning_job_status": "Completed"}))
    return arn


def describe_hyper_parameter_tuning_job(self, hyper_parameter_tuning_job_name):
    if hyper_parameter_tuning_job_name in self.hyper_parameter_tuning_jobs:
        advance(self.hyper_parameter_tuning_jobs[hyper_parameter_tuning_job_name])
    return plain["describe_hyper_parameter_tuning_job"](self, hyper_parameter_tuning_job_name)


def respond_update_endpoint(self):
    excluded = [item["VariantPropertyType"] for item in self._get_param("ExcludeRetainedVariantProperties") or []]
    names = self._get_param("EndpointName"), self._get_param("EndpointConfigName")
    endpoint = self.sagemaker_backend.update_endpoint(*names, self._get_param("RetainAllVariantProperties"), excluded)
    return ActionResult({"EndpointArn": endpoint.arn})


def respond_stop_training_job(self):
    self.sagemaker_backend.stop_training_job(self._get_param("TrainingJobName"))
    return EmptyResult()


def scaling_of(backend):
    return applicationautoscaling_backends[backend.account_id][backend.region_name]


def respond_stop_transform_job(self):
    self.sagemaker_backend.transform_jobs[self._get_param("TransformJobName")].transform_job_status = "Stopped"
    return EmptyResult()


def respond_stop_tuning_job(self):
    job = self.sagemaker_backend.hyper_parameter_tuning_jobs[self._get_param("HyperParameterTuningJobName")]
    job.hyper_parameter_tuning_job_status, job.upcoming = "Stopped", []
    return EmptyResult()
