"""Requests as AWS gets them, whole: what scales an endpoint and the function, and what an endpoint consists of."""

import pytest

from tests.support.applied import apply
from tests.support.aws import Recorder, client, context, release, stage

VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/kennel-dev/variant/main",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
FUNCTION = {
    "ServiceNamespace": "lambda",
    "ResourceId": "function:kennel-dev-invoke:1",
    "ScalableDimension": "lambda:function:ProvisionedConcurrency",
}
TAGS = {"project": "kennel", "stage": "dev", "owner": "vision"}
SUBNETS = {"subnet_ids": ["subnet-1", "subnet-2"], "security_group_ids": ["sg-1"]}
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
BUCKET = "s3://kennel-dev-123456789012-eu-west-1"
ASLEEP = {"endpoint": {"kind": "async"}, "scaling": {"minimum": 0}, "function": {"enabled": False}}


def sent(config, operation) -> list[dict]:
    """The arguments of this operation's calls, in order, of an apply from nothing."""
    recorder = Recorder()
    apply(config, recorder=recorder)
    return [call.parameters for call in recorder.calls if call.operation == operation]


def tracking(metric, target, scale_in, scale_out, where=VARIANT) -> dict:
    return where | {
        "PolicyName": "SageMakerEndpointInvocationScalingPolicy",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": target,
            "PredefinedMetricSpecification": {"PredefinedMetricType": metric},
            "ScaleInCooldown": scale_in,
            "ScaleOutCooldown": scale_out,
        },
    }


@pytest.mark.parametrize(
    ("tables", "policy"),
    [
        ({"scaling": {"profile": "seed"}}, tracking("SageMakerVariantInvocationsPerInstance", 30.0, 30, 30)),
        (
            {"scaling": {"profile": "seed", "target": 45, "scale_in_cooldown_seconds": 0, "scale_out_cooldown_seconds": 90}},
            tracking("SageMakerVariantInvocationsPerInstance", 45.0, 0, 90),
        ),
        ({}, tracking("SageMakerVariantConcurrentRequestsPerModelHighResolution", 5.6, 300, 60)),
        (
            {"serving": {"max_batch": 16}},
            tracking("SageMakerVariantConcurrentRequestsPerModelHighResolution", 11.2, 300, 60),
        ),
    ],
    ids=["seed", "seed, changed", "default", "default, larger batches"],
)
def test_the_policy_that_tracks_an_endpoint(aws, tables, policy):
    assert sent(stage(**tables), "PutScalingPolicy") == [policy]


def test_the_bounds_of_an_endpoint(aws):
    assert sent(stage(scaling={"minimum": 2, "maximum": 7}), "RegisterScalableTarget") == [
        VARIANT | {"MinCapacity": 2, "MaxCapacity": 7, "Tags": TAGS}
    ]


def test_an_asynchronous_endpoint_tracks_its_backlog_and_is_woken_by_the_first_request(aws):
    recorder = Recorder()
    apply(stage(**ASLEEP), recorder=recorder)
    calls = {
        name: [c.parameters for c in recorder.calls if c.operation == name] for name in ("PutScalingPolicy", "PutMetricAlarm")
    }
    backlog, wake_up = calls["PutScalingPolicy"]
    assert backlog == VARIANT | {
        "PolicyName": "SageMakerEndpointInvocationScalingPolicy",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": 5.0,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": "kennel-dev"}],
                "Statistic": "Average",
            },
            "ScaleInCooldown": 300,
            "ScaleOutCooldown": 60,
        },
    }
    assert wake_up == VARIANT | {
        "PolicyName": "wake-up",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
            "Cooldown": 300,
        },
    }
    (alarm,) = [row for row in calls["PutMetricAlarm"] if row["AlarmName"] == "kennel-dev-endpoint-wake-up"]
    there = client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert alarm["AlarmActions"] == [row["PolicyARN"] for row in there if row["PolicyName"] == "wake-up"]
    measured = ("Namespace", "MetricName", "Dimensions", "Statistic", "Period", "EvaluationPeriods", "Threshold")
    assert {name: alarm[name] for name in (*measured, "ComparisonOperator", "ActionsEnabled")} == {
        "Namespace": "AWS/SageMaker",
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": [{"Name": "EndpointName", "Value": "kennel-dev"}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "ActionsEnabled": True,
    }


def test_the_functions_warm_environments_track_their_use(aws):
    recorder = Recorder()
    apply(stage(function={"provisioned_concurrency": 3, "provisioned_maximum": 6}), recorder=recorder)
    ours = [call for call in recorder.calls if call.parameters.get("ServiceNamespace") == "lambda" and call.writes]
    assert [(call.operation, call.parameters) for call in ours] == [
        ("RegisterScalableTarget", FUNCTION | {"MinCapacity": 3, "MaxCapacity": 6, "Tags": TAGS}),
        (
            "PutScalingPolicy",
            FUNCTION
            | {
                "PolicyName": "provisioned-concurrency-utilization",
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": {
                    "TargetValue": 0.7,
                    "PredefinedMetricSpecification": {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"},
                },
            },
        ),
    ]


def configuration(config) -> dict:
    """CreateEndpointConfig's arguments, and the variant apart; without names and tags."""
    (request,) = sent(config, "CreateEndpointConfig")
    (variant,) = request.pop("ProductionVariants")
    assert request.pop("EndpointConfigName").startswith("kennel-dev-")
    assert {tag["Key"]: tag["Value"] for tag in request.pop("Tags")} == TAGS
    assert variant.pop("ModelName").startswith("kennel-dev-")
    assert (variant.pop("VariantName"), variant.pop("InitialVariantWeight")) == ("main", 1.0)
    return {"variant": variant} | request


ON_INSTANCES = {
    "InitialInstanceCount": 1,
    "ContainerStartupHealthCheckTimeoutInSeconds": 600,
    "ModelDataDownloadTimeoutInSeconds": 600,
}
ON_GPU = ON_INSTANCES | {"InstanceType": "ml.g4dn.xlarge", "InferenceAmiVersion": "al2-ami-sagemaker-inference-gpu-3-1"}
ON_CPU = ON_INSTANCES | {"InstanceType": "ml.m5.xlarge"}
FAIR = {"RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}}


def test_the_configuration_of_a_real_time_endpoint(aws):
    assert configuration(stage()) == {"variant": ON_GPU | FAIR}


def test_the_configuration_of_one_that_is_captured_and_encrypted(aws):
    """A type with a disk of its own takes no volume key, one without needs it."""
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 5,
        "DestinationS3Uri": f"{BUCKET}/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        "KmsKeyId": KEY,
    }
    cpu = stage(endpoint={"capture_percent": 5, "instance_type": "ml.m5.xlarge"}, security={"kms_key_arn": KEY})
    assert configuration(cpu) == {"variant": ON_CPU | FAIR, "DataCaptureConfig": capture, "KmsKeyId": KEY}


def test_the_configuration_of_one_whose_disk_cannot_take_the_key(aws):
    assert configuration(stage(security={"kms_key_arn": KEY})) == {"variant": ON_GPU | FAIR}


def test_the_configuration_of_a_serverless_endpoint(aws):
    serverless = {"kind": "serverless", "memory_mb": 3072, "max_concurrency": 20, "instance_type": "ml.m5.xlarge"}
    limits = {"MemorySizeInMB": 3072, "MaxConcurrency": 20}
    config = stage(endpoint=serverless, security={"kms_key_arn": KEY})
    assert configuration(config) == {"variant": {"ServerlessConfig": limits}}, "it takes no volume key"


@pytest.mark.parametrize("key", [{}, {"kms_key_arn": KEY}], ids=["AWS's own key", "the stage's key"])
def test_the_configuration_of_an_asynchronous_endpoint(aws, key):
    config = stage(**ASLEEP | {"endpoint": {"kind": "async", "max_concurrency": 4}}, security=key)
    output = {"S3OutputPath": f"{BUCKET}/async/out", "S3FailurePath": f"{BUCKET}/async/out/failed"}
    assert configuration(config) == {
        "variant": ON_GPU,
        "AsyncInferenceConfig": {
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 4},
            "OutputConfig": output | ({"KmsKeyId": KEY} if key else {}),
        },
    }


def test_the_configuration_of_a_multi_model_endpoint(aws):
    assert configuration(stage(endpoint={"kind": "multi-model", "instance_type": "ml.m5.xlarge"})) == {"variant": ON_CPU}


@pytest.mark.parametrize(
    ("kind", "security", "more"),
    [
        ("real-time", {}, {"EnableNetworkIsolation": True}),
        ("async", {}, {"EnableNetworkIsolation": True}),
        ("serverless", {}, {"EnableNetworkIsolation": False}),
        ("multi-model", {}, {"EnableNetworkIsolation": False}),
        (
            "real-time",
            SUBNETS,
            {
                "EnableNetworkIsolation": True,
                "VpcConfig": {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]},
            },
        ),
    ],
)
def test_the_model(aws, kind, security, more):
    endpoint = {"kind": kind, "instance_type": "ml.m5.xlarge"}
    config = stage(endpoint=endpoint, security=security, function={"enabled": kind != "async"}, serving={"max_batch": 16})
    (request,) = sent(config, "CreateModel")
    assert request.pop("ModelName").startswith("kennel-dev-")
    assert {tag["Key"]: tag["Value"] for tag in request.pop("Tags")} == TAGS | {"cuda": "12.8"}
    wanted = release()
    assert request == more | {
        "PrimaryContainer": {
            "Image": wanted.image,
            "Mode": "MultiModel" if kind == "multi-model" else "SingleModel",
            "ModelDataUrl": wanted.model_data,
            "Environment": {"SERVE_MAX_BATCH": "16"},
        },
        "ExecutionRoleArn": context().names.role_arn("serve"),
    }
