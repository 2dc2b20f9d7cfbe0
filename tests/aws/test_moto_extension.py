"""The fake account: moto still lacks what we add, and what AWS refuses is refused."""

import json
import re
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from tests.support import moto_ext
from tests.support.aws import client
from tests.support.strict_parameters import NotWhatAwsTakes

MISSING = """
from moto.applicationautoscaling.models import ApplicationAutoscalingBackend as Scaling
from moto.awslambda.responses import LambdaResponse as Lambda
from moto.ecr.responses import ECRResponse as Ecr
from moto.sagemaker.responses import SageMakerResponse as SageMaker
from moto.ec2.models.instances import InstanceBackend
from moto.servicequotas.responses import ServiceQuotasResponse as Quotas
from moto.awslambda.models import FunctionUrlConfig, LambdaBackend, LambdaStorage
from moto.s3 import responses as s3
import inspect
print(hasattr(SageMaker, "update_endpoint"), hasattr(SageMaker, "stop_training_job"),
      hasattr(SageMaker, "stop_transform_job"), hasattr(SageMaker, "stop_hyper_parameter_tuning_job"),
      hasattr(Lambda, "put_provisioned_concurrency_config"), hasattr(Lambda, "get_account_settings"),
      "NotImplementedError" not in inspect.getsource(Ecr.get_download_url_for_layer),
      "policies" in inspect.getsource(Scaling.deregister_scalable_target),
      "scheduled_actions" in inspect.getsource(Scaling.deregister_scalable_target),
      "ObjectNotFound" in inspect.getsource(Scaling.put_scheduled_action),
      'tmpl.get("MetadataOptions")' in inspect.getsource(InstanceBackend.run_instances),
      hasattr(Quotas, "list_service_quotas"),
      "expected-bucket-owner" in inspect.getsource(s3),
      'if new_config.get("Cors"):' not in inspect.getsource(FunctionUrlConfig.update),
      "Pending" in inspect.getsource(LambdaStorage.publish_version),
      "rovisioned" in inspect.getsource(LambdaBackend.put_function_concurrency))
"""


def test_moto_still_lacks_what_is_added_here():
    """True: moto has grown it, so the addition goes."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MISSING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 16


VARIANT = {"VariantName": "main", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
TRACKING = {
    "TargetValue": 30.0,
    "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
}
POLICY = {
    "PolicyName": "p", "ServiceNamespace": "sagemaker", "ResourceId": "endpoint/e/variant/v",
    "PolicyType": "TargetTrackingScaling", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}  # fmt: skip
ALARM = {
    "AlarmName": "a", "MetricName": "m", "Namespace": "n", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1,
    "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold",
}  # fmt: skip
JOB = {
    "TrainingJobName": "j", "RoleArn": "arn:aws:iam::123456789012:role/r", "StoppingCondition": {},
    "AlgorithmSpecification": {"TrainingInputMode": "File"}, "OutputDataConfig": {"S3OutputPath": "s3://b/x"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("application-autoscaling", "put_scaling_policy", POLICY | {"TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": 30, "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstanse"}}}),
        ("application-autoscaling", "put_scaling_policy", POLICY | {"TargetTrackingScalingPolicyConfiguration": TRACKING | {
            "ScaleInCooldwn": 30}}),
        ("sagemaker", "create_endpoint", {"EndpointName": "my_endpoint", "EndpointConfigName": "c"}),
        ("sagemaker", "create_endpoint", {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": "CANARYY", "WaitIntervalInSeconds": 1}}}}),
        ("sagemaker", "create_training_job", JOB | {"ResourceConfig": {
            "InstanceType": "ml.bogus", "InstanceCount": 1, "VolumeSizeInGB": 1}}),
        ("sagemaker", "create_training_job", JOB | {"HyperParameters": {"epochs": 1}, "ResourceConfig": {
            "InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}}),
        ("lambda", "update_function_configuration", {"FunctionName": "f", "Timeout": 9999}),
        ("lambda", "update_function_configuration", {"FunctionName": "f", "Runtime": "python3.99"}),
        ("lambda", "update_function_configuration", {"FunctionName": "f", "Environment": {"Variables": {"A_B": "x" * 4096}}}),
        ("s3", "create_bucket", {"Bucket": "sthree-dev"}),
        ("s3", "create_bucket", {"Bucket": "b" * 64}),
        ("iam", "create_policy", {"PolicyName": "p", "PolicyDocument": json.dumps(["x" * 6144])}),
        ("iam", "put_role_policy", {"RoleName": "r", "PolicyName": "p", "PolicyDocument": json.dumps(["x" * 10_240])}),
        ("iam", "create_role", {"RoleName": "r", "AssumeRolePolicyDocument": json.dumps(["x" * 2048])}),
        ("ec2", "run_instances", {"MinCount": 1, "MaxCount": 1, "ClientToken": "t" * 65}),
        ("ec2", "run_instances", {"MinCount": 1, "MaxCount": 1, "UserData": "u" * 16_385}),
        ("ec2", "run_instances", {"MinCount": 1, "MaxCount": 1, "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "model", "Value": "v" * 257}]}]}),
        ("ec2", "create_security_group", {"GroupName": "sg-dev-train", "Description": "d"}),
        ("ec2", "create_security_group", {"GroupName": "g", "Description": "two\nlines"}),
        ("cloudwatch", "put_metric_alarm", ALARM | {"ExtendedStatistic": "p99"}),
        ("cloudwatch", "put_metric_alarm", ALARM | {"DatapointsToAlarm": 2}),
        ("logs", "put_retention_policy", {"logGroupName": "g", "retentionInDays": 31}),
        ("ecr", "put_lifecycle_policy", {"repositoryName": "r", "lifecyclePolicyText": json.dumps({"rules": [
            {"rulePriority": 1, "selection": {"tagStatus": "any"}},
            {"rulePriority": 2, "selection": {"tagStatus": "tagged"}}]})}),
    ],
)  # fmt: skip
def test_requests_that_aws_would_not_take_are_not_sent(aws, service, operation, arguments):
    with pytest.raises((NotWhatAwsTakes, ParamValidationError)):
        getattr(client(service), operation)(**arguments)


@pytest.fixture
def endpoint(aws):
    """An endpoint that is still being created."""
    sagemaker = client("sagemaker")
    sagemaker.create_model(ModelName="m", ExecutionRoleArn="arn:aws:iam::123456789012:role/service")
    for name in ("one", "two"):
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[VARIANT])
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="one")
    return sagemaker


def test_an_image_as_oci_writes_it_is_no_model(aws):
    client("ecr").create_repository(repositoryName="own")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:1"}, "layers": []})
    digest = f"sha256:{'a' * 64}"
    client("ecr").put_image(repositoryName="own", imageManifest=manifest, imageManifestMediaType=kind, imageDigest=digest)
    container = {"Image": f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/own@{digest}"}
    role = "arn:aws:iam::123456789012:role/service"
    with pytest.raises(ClientError, match=f"Unsupported manifest media type {re.escape(kind)}"):
        client("sagemaker").create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer=container)


def settled(sagemaker):
    while (seen := sagemaker.describe_endpoint(EndpointName="e"))["EndpointStatus"] not in ("InService", "Failed"):
        pass
    return seen


def test_an_endpoint_takes_its_time_and_refuses_meanwhile(endpoint):
    for call in (endpoint.delete_endpoint, lambda **name: endpoint.update_endpoint(EndpointConfigName="two", **name)):
        with pytest.raises(ClientError, match="in-progress"):
            call(EndpointName="e")
    assert settled(endpoint)["EndpointConfigName"] == "one"
    with pytest.raises(ClientError, match="already existing"):
        endpoint.create_endpoint(EndpointName="e", EndpointConfigName="one")


def test_a_rolled_back_update_ends_in_service_on_the_old_configuration(endpoint):
    settled(endpoint)
    moto_ext.FAIL["e"] = "an alarm"
    endpoint.update_endpoint(EndpointName="e", EndpointConfigName="two")
    assert endpoint.describe_endpoint(EndpointName="e")["PendingDeploymentSummary"]["EndpointConfigName"] == "two"
    seen = settled(endpoint)
    assert (seen["EndpointStatus"], seen["EndpointConfigName"], seen["FailureReason"]) == ("InService", "one", "an alarm")
