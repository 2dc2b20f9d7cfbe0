"""`export-cfn`: roles, boundary, bucket, repositories and log groups as a CloudFormation template, for a security team to read,
lint or own. Deploy never applies it; after somebody else did, `apply` finds it all there, and tags boundary and instance
profiles: CloudFormation has no tags for these.
"""

import argparse
import json
from typing import Any

from deploy import iam
from deploy.context import Context
from deploy.log_groups import LOG_DAYS
from deploy.registry import Repository
from deploy.roles import INLINE, Boundary, Role
from deploy.storage import Bucket, tag_list

Template = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace, context: Context) -> None:
    del args
    made = template(context)
    context.emit(made, lambda: json.dumps(made, indent=2))


def template(context: Context) -> Template:
    """What `apply` would make, in CloudFormation's words."""
    names, security = context.names, context.config.security
    resources: dict[str, Any] = {
        **_bucket(context),
        **{f"Repository{image.capitalize()}": _repository(context, image) for image in ("train", "serve")},
        "LogGroupEc2": _log_group(context, names.ec2_log_group),
        "LogGroupEndpoint": _log_group(context, names.endpoint_log_group),
    }
    owned = security.boundary and not security.boundary_arn
    if owned:
        document = Boundary(context).desired()["document"]
        resources["Boundary"] = _resource(
            "AWS::IAM::ManagedPolicy", ManagedPolicyName=f"{names.base}-boundary", PolicyDocument=document
        )
    for principal in iam.PRINCIPALS:
        role = _role(context, principal)
        resources[f"Role{principal.capitalize()}"] = role | ({"DependsOn": "Boundary"} if owned else {})
    for principal in iam.ON_INSTANCES:
        role = {"Ref": f"Role{principal.capitalize()}"}
        resources[f"InstanceProfile{principal.capitalize()}"] = _resource(
            "AWS::IAM::InstanceProfile", InstanceProfileName=names.role(principal), Roles=[role]
        )
    description = f"What stage {names.stage} of {names.project} stands on; made by `python -m deploy export-cfn`"
    return {"AWSTemplateFormatVersion": "2010-09-09", "Description": description, "Resources": resources}


def _resource(kind: str, **properties: Any) -> Template:
    return {"Type": kind, "Properties": properties}


def _log_group(context: Context, name: str) -> Template:
    tags = tag_list(context.tags)
    return _resource("AWS::Logs::LogGroup", LogGroupName=name, RetentionInDays=LOG_DAYS, Tags=tags)


def _role(context: Context, principal: str) -> Template:
    wanted = Role(context, principal).desired()
    properties = {
        "RoleName": context.names.role(principal),
        "AssumeRolePolicyDocument": wanted["trust"],
        "Policies": [{"PolicyName": INLINE, "PolicyDocument": wanted["policy"]}],
        "Tags": tag_list(wanted["tags"]),
    }
    if wanted["boundary"]:
        properties["PermissionsBoundary"] = wanted["boundary"]
    return _resource("AWS::IAM::Role", **properties)


def _repository(context: Context, image: str) -> Template:
    wanted = Repository(context, image).desired()
    encryption = {f"{name[0].upper()}{name[1:]}": value for name, value in wanted["encryption"].items()}
    return _resource(
        "AWS::ECR::Repository",
        RepositoryName=context.names.repository(image),
        ImageTagMutability=wanted["tags"],
        ImageScanningConfiguration={"ScanOnPush": wanted["scan_on_push"]},
        EncryptionConfiguration=encryption,
        LifecyclePolicy={"LifecyclePolicyText": json.dumps(wanted["lifecycle"])},
        Tags=tag_list(context.tags),
    )


def _bucket(context: Context) -> dict[str, Template]:
    """Kept when the stack goes: it holds data."""
    wanted = Bucket(context).desired()
    default = wanted["encryption"]["ApplyServerSideEncryptionByDefault"]
    encryption = {"ServerSideEncryptionByDefault": default, "BucketKeyEnabled": wanted["encryption"]["BucketKeyEnabled"]}
    bucket = _resource(
        "AWS::S3::Bucket",
        BucketName=context.names.bucket,
        PublicAccessBlockConfiguration=wanted["public_access"],
        OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        BucketEncryption={"ServerSideEncryptionConfiguration": [encryption]},
        VersioningConfiguration={"Status": wanted["versioning"]},
        LifecycleConfiguration={"Rules": [_rule(rule) for rule in wanted["lifecycle"]]},
        Tags=tag_list(wanted["tags"]),
    )
    policy = _resource("AWS::S3::BucketPolicy", Bucket={"Ref": "Bucket"}, PolicyDocument=wanted["policy"])
    return {"Bucket": bucket | {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}, "BucketPolicy": policy}


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    spelled = {"Id": rule["ID"], "Status": rule["Status"]}
    if rule["Filter"]["Prefix"]:
        spelled["Prefix"] = rule["Filter"]["Prefix"]
    if expiration := rule.get("Expiration"):
        spelled |= {{"Days": "ExpirationInDays"}.get(name, name): value for name, value in expiration.items()}
    same = ("NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload")
    return spelled | {name: rule[name] for name in same if name in rule}
