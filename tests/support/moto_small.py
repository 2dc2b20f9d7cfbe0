"""Application Auto Scaling's refusals, ECR's layer addresses, bucket policies that look at conditions, buckets' owners."""

import base64
import json

from moto.applicationautoscaling.exceptions import AWSValidationException
from moto.applicationautoscaling.models import ApplicationAutoscalingBackend
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ecr.responses import ECRResponse
from moto.s3.exceptions import AccessDeniedByLock
from moto.s3.models import FakeBucket, s3_backends
from moto.s3.responses import S3Response
from moto.sagemaker.models import sagemaker_backends

LAYERS: dict[str, bytes] = {}
"""Digest → bytes of an image's layers and configuration."""

plain_register = ApplicationAutoscalingBackend.register_scalable_target
plain_deregister = ApplicationAutoscalingBackend.deregister_scalable_target
plain_put_scheduled = ApplicationAutoscalingBackend.put_scheduled_action
plain_permission = FakeBucket.get_permission
plain_authorize = S3Response._authenticate_and_authorize_s3_action


def install() -> None:
    ApplicationAutoscalingBackend.register_scalable_target = register_scalable_target
    ApplicationAutoscalingBackend.deregister_scalable_target = deregister_scalable_target
    ApplicationAutoscalingBackend.put_scheduled_action = put_scheduled_action
    ECRResponse.get_download_url_for_layer = get_download_url_for_layer
    FakeBucket.get_permission = get_permission
    S3Response._authenticate_and_authorize_s3_action = authorize


def register_scalable_target(self, namespace, r_id, dimension, **kwargs):
    low, high = kwargs.get("min_capacity"), kwargs.get("max_capacity")
    if low is not None and high is not None and low > high:
        raise AWSValidationException("Maximum capacity cannot be less than minimum capacity")
    if namespace == "sagemaker":
        _, name, _, variant = r_id.split("/")
        endpoint = sagemaker_backends[self.account_id][self.region_name].endpoints.get(name)
        if endpoint is None or variant not in {row["VariantName"] for row in endpoint.production_variants}:
            raise AWSValidationException(f"SageMaker resource does not exist: {r_id}")
        if endpoint.endpoint_status != "InService":
            raise AWSValidationException(f"Endpoint {name} is not InService")
    return plain_register(self, namespace, r_id, dimension, **kwargs)


def deregister_scalable_target(self, namespace, r_id, dimension):
    """Takes the target's policies and scheduled actions with it (API reference, PutScheduledAction)."""
    plain_deregister(self, namespace, r_id, dimension)
    self.scheduled_actions = [action for action in self.scheduled_actions if action.resource_id != r_id]
    for key in [key for key, policy in self.policies.items() if policy.resource_id == r_id]:
        self.policies.pop(key)


def put_scheduled_action(self, *, resource_id, scalable_dimension, **kwargs):
    """Only on a target."""
    if not self._scalable_target_exists(resource_id, scalable_dimension):
        raise JsonRESTError("ObjectNotFoundException", f"No scalable target registered for {resource_id}")
    return plain_put_scheduled(self, resource_id=resource_id, scalable_dimension=scalable_dimension, **kwargs)


def get_download_url_for_layer(self):
    digest = self._get_param("layerDigest")
    body = base64.b64encode(LAYERS[digest]).decode()
    return ActionResult({"downloadUrl": f"data:application/json;base64,{body}", "layerDigest": digest})


def get_permission(self, action, resource):
    """Every request of a test is HTTPS, so a statement that denies plain HTTP never applies; moto ignores conditions."""
    policy, kept = self.policy, self.policy
    if policy:
        document = json.loads(policy)
        statements = [row for row in document["Statement"] if not plain_http_only(row)]
        kept = json.dumps(document | {"Statement": statements}).encode() if statements else None
    self.policy = kept
    try:
        return plain_permission(self, action, resource)
    finally:
        self.policy = policy


def plain_http_only(statement) -> bool:
    return statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") == "false"


def authorize(self, bucket_name=None, **kwargs):
    """403 where the caller says whose the bucket must be (ExpectedBucketOwner) and it is somebody else's."""
    wanted = self.request.headers.get("x-amz-expected-bucket-owner")
    _, owner = s3_backends.bucket_accounts.get(bucket_name, ("", wanted))
    if wanted and wanted != owner:
        raise AccessDeniedByLock
    return plain_authorize(self, bucket_name=bucket_name, **kwargs)
