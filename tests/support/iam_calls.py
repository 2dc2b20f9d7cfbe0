"""What IAM asks for when a call is made.

`needs` turns a recorded call into (action, resource, context) triples, from the service authorization reference; those of EC2
are in `iam_ec2`.
"""

from tests.support import iam_ec2
from tests.support.iam_need import ACCOUNT_WIDE, Need

RENAMED = {
    "s3:HeadBucket": "s3:ListBucket", "s3:ListObjectsV2": "s3:ListBucket", "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:HeadObject": "s3:GetObject", "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock", "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration", "s3:DeleteObjects": "s3:DeleteObject",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration", "s3:CopyObject": "s3:PutObject",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration", "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject", "s3:CompleteMultipartUpload": "s3:PutObject", "lambda:Invoke": "lambda:InvokeFunction",
}  # fmt: skip
SERVICES = {"monitoring": "cloudwatch", "tagging": "tag"}
# Actions that take no resource, by the authorization reference.
WITHOUT_RESOURCE = {
    "sts:GetCallerIdentity", "ecr:GetAuthorizationToken", "tag:GetResources", "lambda:GetAccountSettings",
    "logs:DescribeLogGroups", "sagemaker:ListModels", "sagemaker:ListEndpointConfigs", "sagemaker:ListTrainingJobs",
    "sagemaker:ListHyperParameterTuningJobs", "sagemaker:ListTransformJobs",
    "application-autoscaling:DescribeScalableTargets", "application-autoscaling:DescribeScalingPolicies",
    "application-autoscaling:DescribeScheduledActions",
    "cloudwatch:GetMetricData", "servicequotas:ListServiceQuotas", "servicequotas:ListAWSDefaultServiceQuotas",
    "servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota",
}  # fmt: skip


def needs(call, names) -> list[Need]:
    """Everything IAM looks at for one recorded call."""
    service = SERVICES.get(call.service, call.service)
    if service == "ec2":
        return iam_ec2.needs(call, names) + _passed(call, names)
    action = f"{service}:{call.operation}"
    action = RENAMED.get(action, action)
    resources = [ACCOUNT_WIDE] if action in WITHOUT_RESOURCE else _resources(service, call, names)
    conditions = _conditions(service, call, names)
    found = [Need(action, resource, conditions) for resource in resources]
    if call.operation == "CreateBucket" and "ObjectOwnership" in call.parameters:
        found.append(Need("s3:PutBucketOwnershipControls", resources[0], conditions))
    if call.operation == "DeleteObjects" and any("VersionId" in row for row in call.parameters["Delete"]["Objects"]):
        found += [Need("s3:DeleteObjectVersion", resource, conditions) for resource in resources]
    if call.operation == "GetFunction":  # all have tags (Lambda's guide, "Permissions required for working with tags")
        found += [Need("lambda:ListTags", resource) for resource in resources]
    found += _of_the_key(service, call, names) + _of_repositories(service, call, names)
    tagging = _tagging(service, call)
    if tagging and action != tagging:
        found.append(Need(tagging, resources[0], conditions))
    return found + _passed(call, names)


def _of_the_key(service, call, names) -> list[Need]:
    """What S3 asks of the bucket's own key, with the caller's rights (S3 user guide, "Protecting data with SSE-KMS").

    HeadObject only for the checksum (API reference, ChecksumMode).
    """
    wanted = {"GetObject": ["Decrypt"], "PutObject": ["GenerateDataKey"], "CopyObject": ["Decrypt", "GenerateDataKey"]}
    if call.parameters.get("ChecksumMode"):
        wanted["HeadObject"] = ["Decrypt"]
    key = service == "s3" and call.operation in wanted and _key_of(call.parameters["Bucket"])
    via = {"kms:ViaService": f"s3.{names.region}.{names.dns_suffix}"}
    return [Need(f"kms:{action}", key, via) for action in wanted[call.operation]] if key else []


def _of_repositories(service, call, names) -> list[Need]:
    """What ECR asks of a repository's own key, with the caller's rights (ECR user guide, "Encryption at rest")."""
    if service != "ecr" or call.operation not in ("CreateRepository", "DeleteRepository"):
        return []
    key = call.parameters.get("encryptionConfiguration") or _repository(call.parameters["repositoryName"], names)
    if "kmsKey" not in key:
        return []
    via = {"kms:ViaService": f"ecr.{names.region}.{names.dns_suffix}"}
    if call.operation == "DeleteRepository":
        return [Need("kms:RetireGrant", key["kmsKey"], via)]
    granting = via | {"kms:GrantIsForAWSResource": "true"}
    return [Need("kms:DescribeKey", key["kmsKey"], via), Need("kms:CreateGrant", key["kmsKey"], granting)]


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


def _tagging(service, call) -> str | None:
    """The action that tags on create need besides the create."""
    if not (call.parameters.get("Tags") or call.parameters.get("tags")):
        return None
    iam = {"CreateRole": "iam:TagRole", "CreatePolicy": "iam:TagPolicy", "CreateInstanceProfile": "iam:TagInstanceProfile"}
    return {"sagemaker": "sagemaker:AddTags", "iam": iam.get(call.operation)}.get(service, f"{service}:TagResource")


def _passed(call, names) -> list[Need]:
    parameters = call.parameters
    found = {
        ("sagemaker", "CreateModel"): (parameters.get("ExecutionRoleArn"), "sagemaker"),
        ("sagemaker", "CreateTrainingJob"): (parameters.get("RoleArn"), "sagemaker"),
        ("sagemaker", "CreateHyperParameterTuningJob"): (
            parameters.get("TrainingJobDefinition", {}).get("RoleArn"),
            "sagemaker",
        ),
        ("lambda", "CreateFunction"): (parameters.get("Role"), "lambda"),
        ("lambda", "UpdateFunctionConfiguration"): (parameters.get("Role"), "lambda"),
        ("iam", "AddRoleToInstanceProfile"): (names.arn("iam", f"role/{parameters.get('RoleName')}", region=""), "ec2"),
        ("ec2", "RunInstances"): (names.role_arn(_role_of(parameters)), "ec2"),
        ("application-autoscaling", "RegisterScalableTarget"): (None, parameters.get("ServiceNamespace")),
    }.get((call.service, call.operation))
    if found is None:
        return []
    arn, service = found
    if arn is None:  # the first registration makes the service-linked role
        name = f"{service}.application-autoscaling.amazonaws.com"
        role = names.arn("iam", f"role/aws-service-role/{name}/AWSServiceRoleForApplicationAutoScaling", region="")
        return [Need("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": name})]
    return [Need("iam:PassRole", arn, {"iam:PassedToService": names.service(service)})]


def _role_of(parameters) -> str:
    """What the launch template's instance profile carries."""
    return "ec2serve" if parameters.get("LaunchTemplate", {}).get("LaunchTemplateName", "").endswith("-serve") else "ec2"


def _conditions(service, call, names) -> dict:
    if service == "iam" and call.operation in ("CreateRole", "PutRolePermissionsBoundary"):
        return {"iam:PermissionsBoundary": call.parameters.get("PermissionsBoundary")}
    if service == "iam" and call.operation == "PutRolePolicy":  # the boundary the role carries already
        return {"iam:PermissionsBoundary": _boundary_of(call.parameters["RoleName"])}
    if service == "application-autoscaling":
        tags = {f"aws:RequestTag/{key}": value for key, value in call.parameters.get("Tags", {}).items()}
        space = {"application-autoscaling:service-namespace": call.parameters.get("ServiceNamespace")}
        return space | tags | _target_tags(call, names)
    if service == "lambda" and "AuthType" in call.parameters:
        return {"lambda:FunctionUrlAuthType": call.parameters["AuthType"]}
    if service == "lambda" and "Principal" in call.parameters:
        return {"lambda:Principal": call.parameters["Principal"]}
    if service == "s3":
        prefix = {"s3:prefix": call.parameters["Prefix"]} if "Prefix" in call.parameters else {}
        owner = {} if call.operation == "CreateBucket" else {"aws:ResourceAccount": names.account}
        return prefix | owner
    return {}


def _target_tags(call, names) -> dict:
    """Of a target that is there already: it was registered with them, or the statement for new ones had refused that."""
    from moto.applicationautoscaling.models import applicationautoscaling_backends
    from moto.core import DEFAULT_ACCOUNT_ID

    by_dimension = applicationautoscaling_backends[DEFAULT_ACCOUNT_ID][names.region].targets.values()
    there = any(call.parameters.get("ResourceId") in targets for targets in by_dimension)
    return {f"aws:ResourceTag/{key}": value for key, value in names.tags.items()} if there else {}


def _boundary_of(role: str):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam.models import iam_backends

    return iam_backends[DEFAULT_ACCOUNT_ID]["aws"].get_role(role).permissions_boundary_arn


def _resources(service, call, names) -> list[str]:
    """ARNs of what the call is about."""
    p = call.parameters
    if service == "s3":
        keys = [row["Key"] for row in p["Delete"]["Objects"]] if "Delete" in p else [p.get("Key")]
        return [f"arn:{names.partition}:s3:::{p['Bucket']}" + (f"/{key}" if key else "") for key in keys]
    if service == "iam":
        return [_iam_arn(p, names)]
    if service == "ecr":
        repositories = p.get("repositoryNames") or [p["repositoryName"]]
        return [names.arn("ecr", f"repository/{name}") for name in repositories]
    if service == "lambda":
        name, qualifier = p.get("FunctionName") or p["Resource"].rsplit(":", 1)[-1], p.get("Qualifier")
        return [names.arn("lambda", f"function:{name}" + (f":{qualifier}" if qualifier else ""))]
    if service == "sagemaker":
        return _sagemaker_arns(p, names)
    if service == "logs":
        group = p.get("logGroupName") or p.get("logGroupNamePrefix") or p["logGroupIdentifier"]
        return [names.arn("logs", f"log-group:{group}:*")]
    if service == "cloudwatch":
        alarms = p.get("AlarmNames") or [p.get("AlarmName") or f"{p['AlarmNamePrefix']}*"]
        return [names.arn("cloudwatch", f"alarm:{name}") for name in alarms]
    if service == "application-autoscaling":
        return [names.arn("application-autoscaling", "scalable-target/0123456789abcdef")]
    if service == "ssm":
        return [names.arn("ssm", f"parameter{p['Name']}")]
    raise NotImplementedError(f"{service}:{call.operation}")


def _iam_arn(p, names) -> str:
    if "PolicyArn" in p and "RoleName" not in p:  # a policy that is attached to a role is the role's affair
        return p["PolicyArn"]
    for parameter, kind in (("InstanceProfileName", "instance-profile"), ("RoleName", "role"), ("PolicyName", "policy")):
        if parameter in p:
            return names.arn("iam", f"{kind}/{p[parameter]}", region="")
    raise NotImplementedError(p)


def _sagemaker_arns(p, names) -> list[str]:
    if "ResourceArn" in p:
        return [p["ResourceArn"]]
    if "TransformJobName" in p:  # the model it uses is not looked at
        return [names.arn("sagemaker", f"transform-job/{p['TransformJobName']}")]
    kinds = {
        "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config", "ModelName": "model",
        "TrainingJobName": "training-job", "HyperParameterTuningJobName": "hyper-parameter-tuning-job",
    }  # fmt: skip
    arns = [names.arn("sagemaker", f"{kind}/{p[name]}") for name, kind in kinds.items() if name in p]
    return arns + [names.arn("sagemaker", f"model/{row['ModelName']}") for row in p.get("ProductionVariants", [])]
