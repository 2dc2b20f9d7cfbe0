"""Statements and ARNs that several deployers' documents share. Pure, like `iam`."""

from collections.abc import Sequence

from deploy.iam import SERVICE, Scope
from deploy.iam_statements import Statement, allow


def pass_role(scope: Scope, principal: str, sid: str | None = None) -> Statement:
    """This role, to its own service, and to no other."""
    service = scope.names.service(SERVICE[principal])
    return allow(
        sid or f"Pass{principal.capitalize()}",
        "iam:PassRole",
        scope.names.role_arn(principal),
        StringEquals={"iam:PassedToService": service},
    )


def service_linked(scope: Scope, sid: str, *services: str) -> Statement:
    """Each of the services (a principal's host name) acts through a role of its own, made at an account's first use."""
    arns = [scope.names.arn("iam", f"role/aws-service-role/{name}/*", region="") for name in services]
    return allow(sid, "iam:CreateServiceLinkedRole", arns, StringEquals={"iam:AWSServiceName": list(services)})


def key(scope: Scope) -> list[Statement]:
    if not scope.kms_keys:
        return []
    return [allow("Key", ["kms:Decrypt", "kms:GenerateDataKey"], list(scope.kms_keys), StringEquals=_via(scope, "s3"))]


def key_to_read(scope: Scope) -> list[Statement]:
    if not scope.kms_keys:
        return []
    return [allow("KeyToRead", "kms:Decrypt", list(scope.kms_keys), StringEquals=_via(scope, "s3"))]


def key_grants(scope: Scope) -> list[Statement]:
    """Whoever names the key for a volume or a repository passes its use on to the service, with a grant."""
    if not scope.kms_keys:
        return []
    return [
        allow("KeyGrant", "kms:CreateGrant", list(scope.kms_keys), Bool={"kms:GrantIsForAWSResource": "true"}),
        allow("KeyFacts", "kms:DescribeKey", list(scope.kms_keys)),
    ]


def key_of_repositories(scope: Scope) -> list[Statement]:
    """A repository makes two grants, and ECR takes them back with the caller's own rights when it is deleted; without the right
    to that it stays (ECR user guide, "Encryption at rest"; aws/containers-roadmap issue 1152).
    """
    if not scope.kms_keys:
        return []
    taken_back = allow("KeyTakenBack", "kms:RetireGrant", list(scope.kms_keys), StringEquals=_via(scope, "ecr"))
    return [*key_grants(scope), taken_back]


def key_of_disks(scope: Scope) -> list[Statement]:
    """What RunInstances does with the caller's own rights ("Amazon EBS encryption", required permissions)."""
    if not scope.kms_keys:
        return []
    actions = ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
    return [*key_grants(scope), allow("KeyOfDisks", actions, list(scope.kms_keys), StringEquals=_via(scope, "ec2"))]


def _via(scope: Scope, service: str) -> dict[str, str]:
    return {"kms:ViaService": f"{service}.{scope.names.region}.{scope.names.dns_suffix}"}


def repository_arns(scope: Scope) -> str:
    return scope.names.arn("ecr", f"repository/{scope.names.repository('*')}")


def role_arns(scope: Scope) -> str:
    return scope.names.role_arn("*")


def serving_arns(scope: Scope) -> list[str]:
    names = scope.names
    made = [names.arn("sagemaker", f"{kind}/{names.base}-*") for kind in ("endpoint-config", "model")]
    return [names.arn("sagemaker", f"endpoint/{names.endpoint}"), *made]


TRAINING_JOBS = ("training-job", "hyper-parameter-tuning-job")


def job_arns(scope: Scope, kinds: Sequence[str] = (*TRAINING_JOBS, "transform-job")) -> list[str]:
    return [scope.names.arn("sagemaker", f"{kind}/{scope.names.base}-*") for kind in kinds]


def function_arns(scope: Scope) -> list[str]:
    arn = scope.names.arn("lambda", f"function:{scope.names.function}")
    return [arn, f"{arn}:*"]


def own_log_arns(scope: Scope) -> list[str]:
    """Groups of this stage alone."""
    names = scope.names
    return _groups(scope, names.function_log_group, names.endpoint_log_group, names.ec2_log_group)


def log_arns(scope: Scope) -> list[str]:
    """And those into which SageMaker writes all jobs of the account: to be read only."""
    return [*own_log_arns(scope), *_groups(scope, "/aws/sagemaker/TrainingJobs", "/aws/sagemaker/TransformJobs")]


def _groups(scope: Scope, *groups: str) -> list[str]:
    arns = [scope.names.arn("logs", f"log-group:{group}") for group in groups]
    return [*arns, *(f"{arn}:*" for arn in arns)]


def scaling(scope: Scope) -> list[Statement]:
    """A scalable target's ARN is a number that nobody knows before it is made: our own are told by their tags.

    Application Auto Scaling asks for TagResource when a new target brings its tags. One that says already whose it is cannot
    be tagged anew: anybody's could be made ours first (service authorization reference: ScalableTarget has aws:ResourceTag).
    """
    names = scope.names
    targets = names.arn("application-autoscaling", "scalable-target/*")
    spaces = {"application-autoscaling:service-namespace": ["sagemaker", "lambda"]}
    ours = {f"aws:ResourceTag/{key}": value for key, value in names.tags.items()}
    new = {f"aws:RequestTag/{key}": value for key, value in names.tags.items()}
    actions = ["DeleteScheduledAction", "DeregisterScalableTarget", "PutScalingPolicy", "PutScheduledAction",
               "RegisterScalableTarget"]  # fmt: skip
    return [
        allow("Scaling", [f"application-autoscaling:{action}" for action in actions], targets, StringEquals=spaces | ours),
        allow("ScalingNew", "application-autoscaling:RegisterScalableTarget", targets, StringEquals=spaces | new),
        allow(
            "ScalingTags",
            "application-autoscaling:TagResource",
            targets,
            StringEquals=new,
            Null={"aws:ResourceTag/project": "true"},
        ),
    ]
