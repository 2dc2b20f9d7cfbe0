"""What IAM asks for when a call is made.

`needs` turns a recorded call into (action, resource, context) triples, from the service authorization reference; those of EC2
are in `iam_ec2`, and what AWS does besides with the caller's rights in `iam_behind`. `of_registry`: what the Docker engine asks
of ECR's registry with the caller's password.
"""

from tests.support import iam_behind, iam_ec2
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
        return iam_ec2.needs(call, names) + iam_behind.needs(service, call, names) + _passed(call, names)
    action = f"{service}:{call.operation}"
    action = RENAMED.get(action, action)
    resources = [ACCOUNT_WIDE] if action in WITHOUT_RESOURCE else _resources(service, call, names)
    conditions = _conditions(service, call, names)
    found = [Need(action, resource, conditions) for resource in resources]
    if call.operation == "CreateBucket" and "ObjectOwnership" in call.parameters:
        found.append(Need("s3:PutBucketOwnershipControls", resources[0], conditions))
    if call.operation == "DeleteObjects" and any("VersionId" in row for row in call.parameters["Delete"]["Objects"]):
        found += [Need("s3:DeleteObjectVersion", resource, conditions) for resource in resources]
    if call.operation == "CopyObject":
        source = call.parameters["CopySource"]
        arn = f"arn:{names.partition}:s3:::{source['Bucket']}/{source['Key']}"
        found.append(Need("s3:GetObject", arn, {"aws:ResourceAccount": names.account}))
    if call.operation == "GetFunction":  # all have tags (Lambda's guide, "Permissions required for working with tags")
        found += [Need("lambda:ListTags", resource) for resource in resources]
    found += iam_behind.needs(service, call, names)
    tagging = _tagging(service, call)
    if tagging and action != tagging:
        found.append(Need(tagging, resources[0], conditions))
    return found + _passed(call, names)


_LOOK = ("BatchGetImage", "GetDownloadUrlForLayer")  # manifest and configuration
_REGISTRY = {  # ECR user guide, "IAM permissions for pushing an image" and "… for pulling an image"
    "look": _LOOK,
    "pull": _LOOK,
    "push": ("BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload", "InitiateLayerUpload", "PutImage",
             "UploadLayerPart"),
}  # fmt: skip


def of_registry(kind: str, repository: str, names) -> list[Need]:
    """`kind`: look (its digest and type), pull or push."""
    return [Need(f"ecr:{action}", names.arn("ecr", f"repository/{repository}")) for action in _REGISTRY[kind]]


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
    }.get((call.service, call.operation))
    if found is None:
        return []
    arn, service = found
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
