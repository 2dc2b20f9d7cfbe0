"""Who may do what, as data: one document per principal, pure functions of names and options. No AWS is called here.

Principals: `train` (SageMaker training jobs), `serve` (endpoints and transforms), `lambda`, `ec2` (training on instances),
`ec2serve` (serving on one).
The people who deploy have their own documents in `deployer_policies`.
"""

from dataclasses import dataclass
from typing import Any

from deploy.config import StageConfig
from deploy.iam_statements import Document, Statement, allow, document
from deploy.names import Names
from deploy.storage import ASYNC, CAPTURE, CHECKPOINTS, DATA, EC2, INBOX, MODELS, TRAINING, TRANSFORM

SERVICE = {"train": "sagemaker", "serve": "sagemaker", "lambda": "lambda", "ec2": "ec2", "ec2serve": "ec2"}
PRINCIPALS = tuple(SERVICE)
ON_INSTANCES = tuple(principal for principal, service in SERVICE.items() if service == "ec2")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the documents depend on."""

    names: Names
    kms_keys: tuple[str, ...] = ()
    """The stage's key, then those it had before: what they encrypted is still read, and an older endpoint still uses them."""

    vpc: bool = False
    capture: bool = False
    boundary: str | None = None
    """ARN of the permission boundary that every role carries; None: roles carry none."""

    ami_parameter: str = ""
    """SSM parameter that names the machine image of training on EC2."""

    ec2_types: tuple[str, ...] = ("g4dn.*",)
    """Instance types that training and serving on EC2 may start."""

    @classmethod
    def of(cls, names: Names, config: StageConfig) -> "Scope":
        security = config.security
        ours = names.boundary_arn if security.boundary else None
        kinds = (config.ec2.instance_type, config.ec2_serving.instance_type)
        return cls(
            names=names,
            kms_keys=tuple(filter(None, (security.kms_key_arn, *security.earlier_kms_key_arns))),
            vpc=bool(security.subnet_ids),
            capture=config.endpoint.capture_percent > 0,
            boundary=security.boundary_arn or ours,
            ami_parameter=config.ec2.ami_parameter,
            ec2_types=tuple(sorted({f"{kind.partition('.')[0]}.*" for kind in kinds})),
        )


def trust(scope: Scope, principal: str) -> Document:
    """Only our own account's use of SageMaker may assume the role (no confused deputy); the other two send no such keys.

    EC2 sends none. Lambda's are not documented, and a condition on a key that is missing makes CreateFunction fail; there is
    also nothing to gain, as a role can only be passed to a function of its own account (docs/decisions/021).
    """
    names, service = scope.names, SERVICE[principal]
    statement: Statement = {
        "Effect": "Allow",
        "Principal": {"Service": names.service(service)},
        "Action": "sts:AssumeRole",
    }
    if service == "sagemaker":
        statement["Condition"] = {
            "StringEquals": {"aws:SourceAccount": names.account},
            "ArnLike": {"aws:SourceArn": names.arn("sagemaker", "*")},
        }
    return {"Version": "2012-10-17", "Statement": [statement]}


def role_policy(scope: Scope, principal: str) -> Document:
    """What `principal` may do, and nothing else."""
    return {"train": _train, "serve": _serve, "lambda": _lambda, "ec2": _ec2, "ec2serve": _ec2_serve}[principal](scope)


def boundary(scope: Scope) -> Document:
    """The most that any role of this stage can ever do: no IAM, no STS, nothing outside the stage's names."""
    names = scope.names
    groups = ("/aws/sagemaker/*", f"{names.function_log_group}*", f"{names.ec2_log_group}*")
    return document(
        allow_s3(scope, "Bucket", ["s3:ListBucket"], names.s3_arn()),
        allow_s3(scope, "Objects", _OBJECTS, names.s3_arn("*")),
        allow("Pull", _PULL, names.arn("ecr", f"repository/{names.repository('*')}")),
        allow("Global", ["cloudwatch:PutMetricData", "ecr:GetAuthorizationToken"], "*"),
        allow("Logs", _WRITE_LOGS, [names.arn("logs", f"log-group:{group}") for group in groups]),
        allow("Alarms", "cloudwatch:DescribeAlarms", names.arn("cloudwatch", f"alarm:{names.base}-*")),
        allow("Invoke", ["sagemaker:InvokeEndpoint"], names.arn("sagemaker", f"endpoint/{names.endpoint}")),
        _network(scope),
        _kms(scope, volumes=True),
    )


_PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
_OBJECTS = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
_WRITE_LOGS = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]


def allow_s3(scope: Scope, sid: str, actions: str | list[str], resources: str | list[str], **conditions: Any) -> Statement:
    """About our bucket, and only while it is our account's: its name can be guessed, and so be taken by somebody else."""
    return allow(sid, actions, resources, StringEquals={"aws:ResourceAccount": scope.names.account}, **conditions)


def _train(scope: Scope) -> Document:
    return document(
        _pull(scope, "train"),
        _list(scope, DATA, CHECKPOINTS, TRAINING),
        allow_s3(scope, "ReadData", "s3:GetObject", scope.names.s3_arn(f"{DATA}/*")),
        allow_s3(scope, "WriteModel", ["s3:AbortMultipartUpload", "s3:PutObject"], scope.names.s3_arn(f"{TRAINING}/*")),
        _checkpoints(scope),
        _sagemaker_logs(scope, "TrainingJobs"),
        _metrics("/aws/sagemaker/TrainingJobs"),
        _network(scope),
        _kms(scope, volumes=True),
    )


def _serve(scope: Scope) -> Document:
    names = scope.names
    read = [names.s3_arn(f"{prefix}/*") for prefix in (TRAINING, MODELS, f"{ASYNC}/in", f"{TRANSFORM}/in")]
    write = [names.s3_arn(f"{prefix}/*") for prefix in (f"{ASYNC}/out", f"{TRANSFORM}/out")]
    if scope.capture:
        write.append(names.s3_arn(f"{CAPTURE}/*"))
    alarms = names.arn("cloudwatch", f"alarm:{names.base}-*")
    return document(
        _pull(scope, "serve"),
        _list(scope, TRAINING, MODELS, ASYNC, TRANSFORM),
        allow_s3(scope, "Read", "s3:GetObject", read),
        allow_s3(scope, "Write", ["s3:AbortMultipartUpload", "s3:PutObject"], write),
        allow("RollbackAlarms", "cloudwatch:DescribeAlarms", alarms),  # AutoRollbackConfiguration reads them with this role
        _sagemaker_logs(scope, "Endpoints"),
        _sagemaker_logs(scope, "TransformJobs"),
        _metrics("/aws/sagemaker/Endpoints", "/aws/sagemaker/TransformJobs"),
        _network(scope),
        _kms(scope, volumes=True),
    )


def _lambda(scope: Scope) -> Document:
    """No CreateLogGroup: deploy makes the group, with a retention."""
    names = scope.names
    return document(
        allow("Invoke", "sagemaker:InvokeEndpoint", names.arn("sagemaker", f"endpoint/{names.endpoint}")),
        allow_s3(scope, "ReadPhotos", "s3:GetObject", names.s3_arn(f"{INBOX}/*")),
        allow(
            "Logs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            names.arn("logs", f"log-group:{names.function_log_group}:log-stream:*"),
        ),
        _kms(scope),
    )


def _ec2(scope: Scope) -> Document:
    """No ec2:TerminateInstances: a shutdown ends the instance. No ec2:Describe*: peers meet through the bucket."""
    names = scope.names
    return document(
        _pull(scope, "train"),
        _list(scope, DATA, CHECKPOINTS, EC2),
        allow_s3(scope, "ReadData", "s3:GetObject", names.s3_arn(f"{DATA}/*")),
        allow_s3(scope, "Run", ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], names.s3_arn(f"{EC2}/*")),
        allow_s3(scope, "WriteModel", ["s3:AbortMultipartUpload", "s3:PutObject"], names.s3_arn(f"{TRAINING}/*")),
        _checkpoints(scope),
        allow(
            "Logs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            names.arn("logs", f"log-group:{names.ec2_log_group}:log-stream:*"),
        ),
        _kms(scope),
    )


def _ec2_serve(scope: Scope) -> Document:
    """Reads models, reports its health. The instance's container cannot reach even that: one hop to the metadata service."""
    names = scope.names
    return document(
        _pull(scope, "serve"),
        allow_s3(scope, "ReadModel", "s3:GetObject", [names.s3_arn(f"{prefix}/*") for prefix in (TRAINING, MODELS)]),
        allow_s3(scope, "Report", ["s3:AbortMultipartUpload", "s3:PutObject"], names.s3_arn(f"{EC2}/{names.ec2_release}*")),
        allow(
            "Logs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            names.arn("logs", f"log-group:{names.ec2_log_group}:log-stream:*"),
        ),
        _kms(scope),
    )


def _pull(scope: Scope, image: str) -> list[Statement]:
    repository = scope.names.arn("ecr", f"repository/{scope.names.repository(image)}")
    return [allow("Login", "ecr:GetAuthorizationToken", "*"), allow("Pull", _PULL, repository)]


def _list(scope: Scope, *prefixes: str) -> Statement:
    wanted = sorted([*prefixes, *(f"{prefix}/*" for prefix in prefixes)])
    return allow_s3(scope, "List", "s3:ListBucket", scope.names.s3_arn(), StringLike={"s3:prefix": wanted})


def _checkpoints(scope: Scope) -> Statement:
    return allow_s3(scope, "Checkpoints", _OBJECTS, scope.names.s3_arn(f"{CHECKPOINTS}/*"))


def _sagemaker_logs(scope: Scope, kind: str) -> Statement:
    group = scope.names.arn("logs", f"log-group:/aws/sagemaker/{kind}*")
    return allow(f"Logs{kind}", _WRITE_LOGS, [group, f"{group}:log-stream:*"])


def _metrics(*namespaces: str) -> Statement:
    return allow("Metrics", "cloudwatch:PutMetricData", "*", StringEquals={"cloudwatch:namespace": list(namespaces)})


def _network(scope: Scope) -> list[Statement]:
    """What SageMaker needs to reach private subnets; nothing where none are used."""
    if not scope.vpc:
        return []
    names = scope.names
    describe = ["DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs"]
    interfaces = names.arn("ec2", "network-interface/*")
    parts = [interfaces, names.arn("ec2", "subnet/*"), names.arn("ec2", "security-group/*")]
    return [
        allow("NetworkRead", [f"ec2:Describe{what}" for what in describe], "*"),
        allow("NetworkMake", ["ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"], parts),
        allow(
            "NetworkJoin",
            ["ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterfacePermission"],
            interfaces,
        ),
    ]


def _kms(scope: Scope, *, volumes: bool = False) -> list[Statement]:
    if not scope.kms_keys:
        return []
    names, keys = scope.names, list(scope.kms_keys)
    via = {"kms:ViaService": f"s3.{names.region}.{names.dns_suffix}"}
    statements = [allow("Key", ["kms:Decrypt", "kms:GenerateDataKey"], keys, StringEquals=via)]
    if volumes:
        grant = {"kms:GrantIsForAWSResource": "true"}
        statements.append(allow("KeyForVolumes", "kms:CreateGrant", keys, Bool=grant))
        # What SageMaker wants of whoever names a key for output (API reference, OutputDataConfig.KmsKeyId); by whom it is then
        # called is not said, so no service is asked for. It can hide nothing: whoever may only encrypt reads nothing
        statements.append(allow("KeyForOutput", "kms:Encrypt", keys))
    return statements
