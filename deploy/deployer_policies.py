"""Documents for the people and pipelines that deploy, split so that each holds only what it does. Pure, like `iam`.

guard       the permission boundary: for whoever watches the deployers, never for a pipeline
watch       every read: `plan`, `status`, `costs`, and the reads of all others
foundation  bucket, repositories, roles (only with the boundary), log groups
images · data · training · release · ec2    what the command of that name writes
"""

from deploy.iam import SERVICE, Document, Scope, Statement, allow, document
from deploy.storage import ASYNC, CHECKPOINTS, DATA, EC2, INBOX, MODELS, TRAINING, TRANSFORM

DUTIES = ("guard", "watch", "foundation", "images", "data", "training", "release", "ec2")


def deployer(scope: Scope, duty: str) -> Document:
    """`duty` is one of DUTIES. Each document fits one managed policy (6,144 characters)."""
    return {
        "guard": _guard,
        "watch": _watch,
        "foundation": _foundation,
        "images": _images,
        "data": _data,
        "training": _training,
        "release": _release,
        "ec2": _ec2,
    }[duty](scope)


def _guard(scope: Scope) -> Document:
    actions = ["CreatePolicy", "CreatePolicyVersion", "DeletePolicy", "DeletePolicyVersion", "TagPolicy"]
    return document(
        allow("Boundary", [f"iam:{action}" for action in actions], scope.names.boundary_arn),
        allow("TakeOff", "iam:DeleteRolePermissionsBoundary", _roles(scope)),
    )


def _watch(scope: Scope) -> Document:
    names = scope.names
    bucket = [
        "s3:GetBucketPolicy", "s3:GetBucketPublicAccessBlock", "s3:GetBucketTagging", "s3:GetBucketVersioning",
        "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration", "s3:ListBucket",
    ]  # fmt: skip
    return document(
        allow("Who", "sts:GetCallerIdentity", "*"),
        allow("Bucket", bucket, names.s3_arn()),
        allow(
            "Repositories",
            ["ecr:DescribeImages", "ecr:DescribeRepositories", "ecr:GetLifecyclePolicy"],
            _repositories(scope),
        ),
        allow("Roles", ["iam:GetRole", "iam:GetRolePolicy", "iam:ListRolePolicies"], _roles(scope)),
        allow("Boundary", ["iam:GetPolicy", "iam:GetPolicyVersion", "iam:ListPolicyVersions"], names.boundary_arn),
        allow("Profile", "iam:GetInstanceProfile", names.arn("iam", f"instance-profile/{names.base}-*", region="")),
        allow(
            "Serving",
            ["sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModel", "sagemaker:ListTags"],
            _serving_arns(scope),
        ),
        allow(
            "Jobs",
            ["sagemaker:DescribeHyperParameterTuningJob", "sagemaker:DescribeTrainingJob", "sagemaker:DescribeTransformJob"],
            _job_arns(scope),
        ),
        allow(
            "Lists",
            [
                "application-autoscaling:DescribeScalableTargets",
                "application-autoscaling:DescribeScalingPolicies",
                "lambda:GetAccountSettings",
                "logs:DescribeLogGroups",
                "sagemaker:ListEndpointConfigs",
                "sagemaker:ListModels",
                "sagemaker:ListTrainingJobs",
                "tag:GetResources",
            ],
            "*",
        ),
        allow("AlarmStates", "cloudwatch:DescribeAlarms", names.arn("cloudwatch", "alarm:*")),
        allow(
            "Function",
            [
                "lambda:GetAlias",
                "lambda:GetFunction",
                "lambda:GetFunctionConcurrency",
                "lambda:GetFunctionConfiguration",
                "lambda:GetFunctionUrlConfig",
                "lambda:GetPolicy",
                "lambda:GetProvisionedConcurrencyConfig",
                "lambda:ListVersionsByFunction",
            ],
            _function_arns(scope),
        ),
        allow("Logs", "logs:GetLogEvents", _log_arns(scope)),
        allow("LogStreams", "logs:DescribeLogStreams", _log_arns(scope)),
    )


def _foundation(scope: Scope) -> Document:
    names = scope.names
    bucket = [
        "s3:CreateBucket", "s3:DeleteBucket", "s3:ListBucketVersions", "s3:PutBucketOwnershipControls", "s3:PutBucketPolicy",
        "s3:PutBucketPublicAccessBlock", "s3:PutBucketTagging", "s3:PutBucketVersioning", "s3:PutEncryptionConfiguration",
        "s3:PutLifecycleConfiguration",
    ]  # fmt: skip
    repositories = [
        "ecr:CreateRepository", "ecr:DeleteRepository", "ecr:PutImageScanningConfiguration", "ecr:PutImageTagMutability",
        "ecr:PutLifecyclePolicy", "ecr:TagResource",
    ]  # fmt: skip
    make = ["iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"]
    carries = {"ArnEquals": {"iam:PermissionsBoundary": scope.boundary}} if scope.boundary else {}
    profile = ["AddRoleToInstanceProfile", "CreateInstanceProfile", "DeleteInstanceProfile", "RemoveRoleFromInstanceProfile"]
    return document(
        allow("Bucket", bucket, names.s3_arn()),
        allow("Empty", ["s3:DeleteObject", "s3:DeleteObjectVersion"], names.s3_arn("*")),
        allow("Repositories", repositories, _repositories(scope)),
        allow("RolesWithBoundary", make, _roles(scope), **carries),
        allow(
            "Roles",
            ["iam:DeleteRole", "iam:DeleteRolePolicy", "iam:TagRole", "iam:UpdateAssumeRolePolicy"],
            _roles(scope),
        ),
        allow(
            "Profile",
            [*(f"iam:{action}" for action in profile), "iam:TagInstanceProfile"],
            names.arn("iam", f"instance-profile/{names.base}-*", region=""),
        ),
        _pass(scope, "ec2", sid="PassToProfile"),
        allow(
            "LogGroups",
            ["logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:PutRetentionPolicy", "logs:TagResource"],
            _log_arns(scope),
        ),
        _key_grants(scope),
    )


def _images(scope: Scope) -> Document:
    push = [
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
        "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
    ]  # fmt: skip
    return document(allow("Login", "ecr:GetAuthorizationToken", "*"), allow("Push", push, _repositories(scope)))


def _data(scope: Scope) -> Document:
    actions = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    prefixes = (DATA, INBOX, f"{ASYNC}/in", f"{TRANSFORM}/in")
    return document(
        allow("Objects", actions, [scope.names.s3_arn(f"{prefix}/*") for prefix in prefixes]),
        _key(scope),
    )


def _training(scope: Scope) -> Document:
    names = scope.names
    actions = [
        "AddTags",
        "CreateHyperParameterTuningJob",
        "CreateTrainingJob",
        "StopHyperParameterTuningJob",
        "StopTrainingJob",
    ]
    return document(
        _pass(scope, "train"),
        allow("Train", [f"sagemaker:{action}" for action in actions], _job_arns(scope)),
        allow(
            "Results",
            "s3:GetObject",
            [names.s3_arn(f"{prefix}/*") for prefix in (TRAINING, CHECKPOINTS)],
        ),
        _key(scope),
        _key_grants(scope),
    )


def _release(scope: Scope) -> Document:
    names = scope.names
    serve = ["AddTags", "CreateEndpoint", "CreateEndpointConfig", "CreateModel", "DeleteEndpoint", "DeleteEndpointConfig",
             "DeleteModel", "InvokeEndpoint", "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities"]  # fmt: skip
    function = ["AddPermission", "CreateAlias", "CreateFunction", "CreateFunctionUrlConfig", "DeleteFunction",
                "DeleteFunctionConcurrency", "DeleteFunctionUrlConfig", "DeleteProvisionedConcurrencyConfig", "InvokeFunction",
                "PublishVersion", "PutFunctionConcurrency", "PutProvisionedConcurrencyConfig", "TagResource", "UpdateAlias",
                "UpdateFunctionCode", "UpdateFunctionConfiguration", "UpdateFunctionUrlConfig"]  # fmt: skip
    scaling = ["DeregisterScalableTarget", "PutScalingPolicy", "RegisterScalableTarget"]
    targets = names.arn("application-autoscaling", "scalable-target/*")
    tracked = [f"TargetTracking-endpoint/{names.endpoint}/*", f"TargetTracking-function:{names.function}:*"]
    return document(
        _pass(scope, "serve"),
        _pass(scope, "lambda"),
        allow("Serve", [f"sagemaker:{action}" for action in serve], _serving_arns(scope)),
        allow("Transform", ["sagemaker:AddTags", "sagemaker:CreateTransformJob"],
              names.arn("sagemaker", f"transform-job/{names.base}-*")),
        allow("Artifacts", "s3:GetObject", [names.s3_arn(f"{prefix}/*") for prefix in (TRAINING, MODELS)]),
        allow("Image", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:PutImage"],
              names.arn("ecr", f"repository/{names.repository('serve')}")),
        allow("ManyModels", "s3:PutObject", names.s3_arn(f"{MODELS}/*")),
        allow("Function", [f"lambda:{action}" for action in function], _function_arns(scope)),
        allow("Scaling", [f"application-autoscaling:{action}" for action in scaling], targets,
              StringEquals={"application-autoscaling:service-namespace": ["sagemaker", "lambda"]}),
        allow("ScalingTags", "application-autoscaling:TagResource", targets),
        [_service_linked(scope, f"{service}.application-autoscaling.amazonaws.com") for service in ("sagemaker", "lambda")],
        allow("Alarms", ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"],
              [names.arn("cloudwatch", f"alarm:{name}") for name in (f"{names.base}-*", *tracked)]),
        _key(scope),
        _key_grants(scope),
    )  # fmt: skip


def _ec2(scope: Scope) -> Document:
    names = scope.names
    kinds_made = ("instance", "volume", "network-interface", "spot-instances-request", "security-group")
    made = [names.arn("ec2", f"{kind}/*") for kind in kinds_made]
    tagged = {"aws:RequestTag/project": names.project, "aws:RequestTag/stage": names.stage}
    ours = {"aws:ResourceTag/project": names.project, "aws:ResourceTag/stage": names.stage}
    kinds = {"ec2:InstanceType": scope.ec2_types}
    describe = ["Images", "Instances", "SecurityGroups", "Subnets"]
    public = scope.ami_parameter.startswith("/aws/service/")  # AWS's own belong to no account
    ami = names.arn("ssm", f"parameter{scope.ami_parameter}", account="" if public else None)
    return document(
        _pass(scope, "ec2"),
        allow("Look", [f"ec2:Describe{what}" for what in describe], "*"),
        allow("Ami", "ssm:GetParameter", ami),
        allow("RunTagged", "ec2:RunInstances", names.arn("ec2", "instance/*"),
              StringEquals=tagged | {"ec2:MetadataHttpTokens": "required"}, StringLike=kinds),
        allow("RunEncrypted", "ec2:RunInstances", names.arn("ec2", "volume/*"), Bool={"ec2:Encrypted": "true"}),
        allow("RunWith", "ec2:RunInstances", [
            names.arn("ec2", "image/*", account=""),
            *(names.arn("ec2", f"{kind}/*") for kind in (
                "network-interface", "security-group", "subnet", "spot-instances-request")),
        ]),
        allow("TagNew", "ec2:CreateTags", made,
              StringEquals={"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup"]}),
        allow("MakeTagged", "ec2:CreateSecurityGroup", names.arn("ec2", "security-group/*"), StringEquals=tagged),
        allow("InVpc", "ec2:CreateSecurityGroup", names.arn("ec2", "vpc/*")),
        allow("OursOnly", ["ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteSecurityGroup", "ec2:TerminateInstances"],
              [names.arn("ec2", "instance/*"), names.arn("ec2", "security-group/*")], StringEquals=ours),
        allow("Runs", ["s3:GetObject", "s3:PutObject"], names.s3_arn(f"{EC2}/*")),
        allow("Results", "s3:GetObject", names.s3_arn(f"{TRAINING}/*")),
        _service_linked(scope, "spot.amazonaws.com"),  # made by an account's first spot request
        _key(scope),
        _key_of_disks(scope),
    )  # fmt: skip


def _pass(scope: Scope, principal: str, sid: str | None = None) -> Statement:
    """This role, to its own service, and to no other."""
    service = scope.names.service(SERVICE[principal])
    return allow(
        sid or f"Pass{principal.capitalize()}",
        "iam:PassRole",
        scope.names.role_arn(principal),
        StringEquals={"iam:PassedToService": service},
    )


def _service_linked(scope: Scope, name: str) -> Statement:
    """The service (a principal's host name) acts through a role of its own, made at an account's first use."""
    arn = scope.names.arn("iam", f"role/aws-service-role/{name}/*", region="")
    sid = f"RoleOf{name.partition('.')[0].capitalize()}"
    return allow(sid, "iam:CreateServiceLinkedRole", arn, StringEquals={"iam:AWSServiceName": name})


def _key(scope: Scope) -> list[Statement]:
    if not scope.kms_key:
        return []
    return [allow("Key", ["kms:Decrypt", "kms:GenerateDataKey"], scope.kms_key, StringEquals=_via(scope, "s3"))]


def _key_grants(scope: Scope) -> list[Statement]:
    """Whoever names the key for a volume or a repository passes its use on to the service, with a grant."""
    if not scope.kms_key:
        return []
    return [
        allow("KeyGrant", "kms:CreateGrant", scope.kms_key, Bool={"kms:GrantIsForAWSResource": "true"}),
        allow("KeyFacts", "kms:DescribeKey", scope.kms_key),
    ]


def _key_of_disks(scope: Scope) -> list[Statement]:
    """What RunInstances does with the caller's own rights ("Amazon EBS encryption", required permissions)."""
    if not scope.kms_key:
        return []
    actions = ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
    return [*_key_grants(scope), allow("KeyOfDisks", actions, scope.kms_key, StringEquals=_via(scope, "ec2"))]


def _via(scope: Scope, service: str) -> dict[str, str]:
    return {"kms:ViaService": f"{service}.{scope.names.region}.{scope.names.dns_suffix}"}


def _repositories(scope: Scope) -> str:
    return scope.names.arn("ecr", f"repository/{scope.names.repository('*')}")


def _roles(scope: Scope) -> str:
    return scope.names.role_arn("*")


def _serving_arns(scope: Scope) -> list[str]:
    names = scope.names
    made = [names.arn("sagemaker", f"{kind}/{names.base}-*") for kind in ("endpoint-config", "model")]
    return [names.arn("sagemaker", f"endpoint/{names.endpoint}"), *made]


def _job_arns(scope: Scope) -> list[str]:
    kinds = ("training-job", "hyper-parameter-tuning-job", "transform-job")
    return [scope.names.arn("sagemaker", f"{kind}/{scope.names.base}-*") for kind in kinds]


def _function_arns(scope: Scope) -> list[str]:
    arn = scope.names.arn("lambda", f"function:{scope.names.function}")
    return [arn, f"{arn}:*"]


def _log_arns(scope: Scope) -> list[str]:
    names = scope.names
    groups = [names.function_log_group, names.endpoint_log_group, names.ec2_log_group,
              "/aws/sagemaker/TrainingJobs", "/aws/sagemaker/TransformJobs"]  # fmt: skip
    arns = [names.arn("logs", f"log-group:{group}") for group in groups]
    return [*arns, *(f"{arn}:*" for arn in arns)]
