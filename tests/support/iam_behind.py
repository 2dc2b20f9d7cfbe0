"""What AWS does on a caller's behalf, with the caller's own rights, besides the call itself: keys, scaling, its own roles."""

from tests.support.iam_ec2 import started_from
from tests.support.iam_need import Need

OF_VOLUMES = ("Decrypt", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo")
SCALED = {  # of a scalable target (SageMaker's guide, "Auto scaling prerequisites"; Application Auto Scaling's, IAM examples)
    "sagemaker": ("DescribeEndpoint", "UpdateEndpointWeightsAndCapacities"),
    "lambda": ("GetProvisionedConcurrencyConfig", "PutProvisionedConcurrencyConfig", "DeleteProvisionedConcurrencyConfig"),
}


def needs(service, call, names) -> list[Need]:
    """(action, resource, context) triples."""
    behind = {"s3": _object_keys, "ecr": _repository_keys, "ec2": _of_instances, "sagemaker": _volume_keys}
    return behind.get(service, _scaling if service == "application-autoscaling" else _nothing)(call, names)


def _nothing(call, names) -> list[Need]:
    return []


def _object_keys(call, names) -> list[Need]:
    """What S3 asks of the bucket's own key (S3 user guide, "Protecting data with SSE-KMS").

    HeadObject only for the checksum (API reference, ChecksumMode).
    """
    wanted = {"GetObject": ["Decrypt"], "PutObject": ["GenerateDataKey"], "CopyObject": ["Decrypt", "GenerateDataKey"]}
    wanted["CreateMultipartUpload"] = ["Decrypt", "GenerateDataKey"]
    if call.parameters.get("ChecksumMode"):
        wanted["HeadObject"] = ["Decrypt"]
    key = call.operation in wanted and _key_of(call.parameters["Bucket"])
    return [Need(f"kms:{action}", key, _via("s3", names)) for action in wanted[call.operation]] if key else []


def _repository_keys(call, names) -> list[Need]:
    """What ECR asks of a repository's own key (ECR user guide, "Encryption at rest")."""
    if call.operation not in ("CreateRepository", "DeleteRepository"):
        return []
    key = call.parameters.get("encryptionConfiguration") or _repository(call.parameters["repositoryName"], names)
    if "kmsKey" not in key:
        return []
    if call.operation == "DeleteRepository":
        return [Need("kms:RetireGrant", key["kmsKey"], _via("ecr", names))]
    return _granted(key["kmsKey"], _via("ecr", names))


def _volume_keys(call, names) -> list[Need]:
    """SageMaker makes the grant as whoever names the key of a disk (guide, "API permissions reference")."""
    p = call.parameters
    within = p.get("TrainingJobDefinition", p)
    holders = [p, *(within.get(part, {}) for part in ("ResourceConfig", "TransformResources"))]
    keys = [holder.get("VolumeKmsKeyId") for holder in holders]
    if call.operation in ("CreateEndpoint", "UpdateEndpoint"):
        keys.append(_key_of_config(p["EndpointConfigName"], names))
    return [need for key in keys if key for need in _granted(key, {})]


def _of_instances(call, names) -> list[Need]:
    """Of encrypted disks (EBS user guide, "Required permissions"); and the role for which a first spot request asks."""
    if call.operation != "RunInstances":
        return []
    keys = {mapping["Ebs"].get("KmsKeyId") for mapping in started_from(call.parameters, names)["BlockDeviceMappings"]} - {None}
    found = [need for key in keys for need in _granted(key, _via("ec2", names))]
    found += [Need(f"kms:{action}", key, _via("ec2", names)) for key in keys for action in OF_VOLUMES]
    if "InstanceMarketOptions" in call.parameters:
        found.append(_role("spot.amazonaws.com", "AWSServiceRoleForEC2Spot", names))
    return found


def _scaling(call, names) -> list[Need]:
    p, space = call.parameters, call.parameters.get("ServiceNamespace")
    if call.operation == "RegisterScalableTarget":
        of = p["ResourceId"]
        arn = names.arn("lambda", of) if space == "lambda" else names.arn("sagemaker", of.partition("/variant/")[0])
        owner = f"{space}.application-autoscaling.amazonaws.com"
        return [
            *(Need(f"{space}:{action}", arn) for action in SCALED[space]),
            _role(owner, "AWSServiceRoleForApplicationAutoScaling", names),
        ]
    alarms = {
        "PutScalingPolicy": ["PutMetricAlarm", "DescribeAlarms", "DeleteAlarms"],
        "DeregisterScalableTarget": ["DeleteAlarms"],
    }
    if p.get("PolicyType") == "StepScaling":  # its alarm is ours
        return []
    arn = names.arn("cloudwatch", f"alarm:TargetTracking-{p.get('ResourceId')}-AlarmHigh-0123")
    return [Need(f"cloudwatch:{action}", arn) for action in alarms.get(call.operation, [])]


def _role(service, name, names) -> Need:
    """The first use makes the service-linked role."""
    arn = names.arn("iam", f"role/aws-service-role/{service}/{name}", region="")
    return Need("iam:CreateServiceLinkedRole", arn, {"iam:AWSServiceName": service})


def _granted(key, via) -> list[Need]:
    return [Need("kms:DescribeKey", key, via), Need("kms:CreateGrant", key, via | {"kms:GrantIsForAWSResource": "true"})]


def _via(service, names) -> dict[str, str]:
    return {"kms:ViaService": f"{service}.{names.region}.{names.dns_suffix}"}


def _repository(name: str, names) -> dict:
    """How it is encrypted."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ecr.models import ecr_backends

    return ecr_backends[DEFAULT_ACCOUNT_ID][names.region].repositories[name].encryption_configuration


def _key_of(bucket: str) -> str | None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(bucket)
    rule = ((found and found.encryption) or {}).get("Rule", {})
    return rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID")


def _key_of_config(name: str, names) -> str | None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sagemaker.models import sagemaker_backends

    config = sagemaker_backends[DEFAULT_ACCOUNT_ID][names.region].endpoint_configs.get(name)
    return getattr(config, "kms_key_id", None)
