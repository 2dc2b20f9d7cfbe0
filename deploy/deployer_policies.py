"""Documents for the people and pipelines that deploy, split so that each holds only what it does. Pure, like `iam`.

guard       the permission boundary: for whoever watches the deployers, never for a pipeline
watch       every read: `plan`, `status`, `costs`, and the reads of all others
foundation  bucket, repositories, roles (only with the boundary), log groups
images · data · training · release · ec2    what the command of that name writes
"""

from deploy.deployer_ec2 import ec2
from deploy.deployer_statements import (
    TRAINING_JOBS,
    function_arns,
    job_arns,
    key,
    key_grants,
    key_of_repositories,
    key_to_read,
    log_arns,
    own_log_arns,
    pass_role,
    repository_arns,
    role_arns,
    scaling,
    service_linked,
    serving_arns,
)
from deploy.iam import ON_INSTANCES, Scope, allow_s3
from deploy.iam_statements import Document, allow, document
from deploy.storage import ASYNC, DATA, EC2, INBOX, MODELS, TRAINING, TRANSFORM

DUTIES = ("guard", "watch", "foundation", "images", "data", "training", "release", "ec2")


def deployer(scope: Scope, duty: str) -> Document:
    """`duty` is one of DUTIES. Each document fits one managed policy (`policies.MANAGED`) unless the stage lists many keys."""
    return {
        "guard": _guard,
        "watch": _watch,
        "foundation": _foundation,
        "images": _images,
        "data": _data,
        "training": _training,
        "release": _release,
        "ec2": ec2,
    }[duty](scope)


def _guard(scope: Scope) -> Document:
    actions = ["CreatePolicy", "CreatePolicyVersion", "DeletePolicy", "DeletePolicyVersion", "TagPolicy"]
    return document(
        allow("Boundary", [f"iam:{action}" for action in actions], scope.names.boundary_arn),
        allow("TakeOff", "iam:DeleteRolePermissionsBoundary", role_arns(scope)),
    )


def _watch(scope: Scope) -> Document:
    names = scope.names
    bucket = [
        "s3:GetBucketPolicy", "s3:GetBucketPublicAccessBlock", "s3:GetBucketTagging", "s3:GetBucketVersioning",
        "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration", "s3:ListBucket",
    ]  # fmt: skip
    return document(
        allow("Who", "sts:GetCallerIdentity", "*"),
        allow_s3(scope, "Bucket", bucket, names.s3_arn()),
        allow(
            "Repositories",
            ["ecr:DescribeImages", "ecr:DescribeRepositories", "ecr:GetLifecyclePolicy"],
            repository_arns(scope),
        ),
        allow(
            "Roles",
            ["iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListRolePolicies"],
            role_arns(scope),
        ),
        allow("Boundary", ["iam:GetPolicy", "iam:GetPolicyVersion", "iam:ListPolicyVersions"], names.boundary_arn),
        allow("Profile", "iam:GetInstanceProfile", names.arn("iam", f"instance-profile/{names.base}-*", region="")),
        allow(
            "Serving",
            ["sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig", "sagemaker:DescribeModel", "sagemaker:ListTags"],
            serving_arns(scope),
        ),
        allow(
            "Jobs",
            ["sagemaker:DescribeHyperParameterTuningJob", "sagemaker:DescribeTrainingJob", "sagemaker:DescribeTransformJob"],
            job_arns(scope),
        ),
        allow(
            "Lists",
            [
                "application-autoscaling:DescribeScalableTargets",
                "application-autoscaling:DescribeScalingPolicies",
                "application-autoscaling:DescribeScheduledActions",
                "ec2:DescribeInstances",
                "lambda:GetAccountSettings",
                "logs:DescribeLogGroups",
                "sagemaker:ListEndpointConfigs",
                "sagemaker:ListHyperParameterTuningJobs",
                "sagemaker:ListModels",
                "sagemaker:ListTrainingJobs",
                "sagemaker:ListTransformJobs",
                "servicequotas:ListAWSDefaultServiceQuotas",
                "servicequotas:ListServiceQuotas",
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
                "lambda:ListTags",  # of a function with tags, GetFunction asks for it too (Lambda's guide, "Using tags")
                "lambda:ListVersionsByFunction",
            ],
            function_arns(scope),
        ),
        allow_s3(scope, "Health", "s3:GetObject", names.s3_arn(f"{EC2}/*/status.json")),
        key_to_read(scope),
        allow("Logs", ["logs:DescribeLogStreams", "logs:GetLogEvents"], log_arns(scope)),
    )


def _foundation(scope: Scope) -> Document:
    names = scope.names
    bucket = [
        "s3:DeleteBucket", "s3:ListBucketVersions", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock",
        "s3:PutBucketTagging", "s3:PutBucketVersioning", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration",
    ]  # fmt: skip
    repositories = [
        "ecr:CreateRepository", "ecr:DeleteRepository", "ecr:PutImageScanningConfiguration", "ecr:PutImageTagMutability",
        "ecr:PutLifecyclePolicy", "ecr:TagResource",
    ]  # fmt: skip
    make = ["iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"]
    carries = {"ArnEquals": {"iam:PermissionsBoundary": scope.boundary}} if scope.boundary else {}
    profile = ["AddRoleToInstanceProfile", "CreateInstanceProfile", "DeleteInstanceProfile", "RemoveRoleFromInstanceProfile"]
    return document(
        allow("MakeBucket", ["s3:CreateBucket", "s3:PutBucketOwnershipControls"], names.s3_arn()),  # nobody's until then
        allow_s3(scope, "Bucket", bucket, names.s3_arn()),
        allow_s3(scope, "Empty", ["s3:DeleteObject", "s3:DeleteObjectVersion"], names.s3_arn("*")),
        allow("Repositories", repositories, repository_arns(scope)),
        allow("RolesWithBoundary", make, role_arns(scope), **carries),
        allow(
            "Roles",
            ["iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:TagRole", "iam:UpdateAssumeRolePolicy"],
            role_arns(scope),
        ),
        allow(
            "Profile",
            [*(f"iam:{action}" for action in profile), "iam:TagInstanceProfile"],
            names.arn("iam", f"instance-profile/{names.base}-*", region=""),
        ),
        [pass_role(scope, principal, sid=f"{principal.capitalize()}ToProfile") for principal in ON_INSTANCES],
        allow(
            "LogGroups",
            ["logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:PutRetentionPolicy", "logs:TagResource"],
            own_log_arns(scope),
        ),
        key_of_repositories(scope),
    )


def _images(scope: Scope) -> Document:
    push = [
        "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
        "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
    ]  # fmt: skip
    return document(allow("Login", "ecr:GetAuthorizationToken", "*"), allow("Push", push, repository_arns(scope)))


def _data(scope: Scope) -> Document:
    actions = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    prefixes = (DATA, INBOX, f"{ASYNC}/in", f"{TRANSFORM}/in")
    return document(
        allow_s3(scope, "Objects", actions, [scope.names.s3_arn(f"{prefix}/*") for prefix in prefixes]),
        key(scope),
    )


def _training(scope: Scope) -> Document:
    actions = [
        "AddTags",
        "CreateHyperParameterTuningJob",
        "CreateTrainingJob",
        "StopHyperParameterTuningJob",
        "StopTrainingJob",
    ]
    return document(
        pass_role(scope, "train"),
        allow("Train", [f"sagemaker:{action}" for action in actions], job_arns(scope, TRAINING_JOBS)),
        key_grants(scope),
    )


def _release(scope: Scope) -> Document:
    names = scope.names
    serve = ["AddTags", "CreateEndpoint", "CreateEndpointConfig", "CreateModel", "CreateTransformJob", "DeleteEndpoint",
             "DeleteEndpointConfig", "DeleteModel", "InvokeEndpoint", "StopTransformJob", "UpdateEndpoint",
             "UpdateEndpointWeightsAndCapacities"]  # fmt: skip
    function = ["CreateAlias", "CreateFunction", "DeleteFunction", "DeleteFunctionConcurrency",
                "DeleteFunctionUrlConfig", "DeleteProvisionedConcurrencyConfig", "InvokeFunction",
                "PublishVersion", "PutFunctionConcurrency", "PutProvisionedConcurrencyConfig", "TagResource", "UpdateAlias",
                "UpdateFunctionCode", "UpdateFunctionConfiguration"]  # fmt: skip
    function_and_alias = names.arn("lambda", f"function:{names.function}*")  # AWS does not say of which of them it asks
    tracked = [f"TargetTracking-endpoint/{names.endpoint}/*", f"TargetTracking-function:{names.function}:*"]
    return document(
        pass_role(scope, "serve"),
        pass_role(scope, "lambda"),
        allow("Serve", [f"sagemaker:{action}" for action in serve],
              [*serving_arns(scope), names.arn("sagemaker", f"transform-job/{names.base}-*")]),
        allow_s3(scope, "Artifacts", "s3:GetObject", [names.s3_arn(f"{prefix}/*") for prefix in (TRAINING, MODELS)]),
        allow("Image", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:PutImage"],
              names.arn("ecr", f"repository/{names.repository('serve')}")),
        allow_s3(scope, "ManyModels", "s3:PutObject", names.s3_arn(f"{MODELS}/*")),
        allow("Function", [f"lambda:{action}" for action in function], function_arns(scope)),
        allow("Url", ["lambda:CreateFunctionUrlConfig", "lambda:UpdateFunctionUrlConfig"], function_and_alias,
              StringEquals={"lambda:FunctionUrlAuthType": "AWS_IAM"}),
        allow("UrlCallers", "lambda:AddPermission", function_and_alias, StringEquals={"lambda:Principal": names.account}),
        scaling(scope),
        service_linked(scope, "RolesOfScaling",
                       *(f"{service}.application-autoscaling.amazonaws.com" for service in ("sagemaker", "lambda"))),
        allow("Alarms", ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"],
              [names.arn("cloudwatch", f"alarm:{name}") for name in (f"{names.base}-*", *tracked)]),
        key(scope),
        key_grants(scope),
    )  # fmt: skip
