"""What AWS refuses and botocore's models do not say: limits over several members, reserved names, the sizes of documents.

Each rule names the page that it is from.
"""

import json
import re
from collections.abc import Callable, Iterator

from deploy.ec2_request import USER_DATA_LIMIT_BYTES

Rule = Callable[[dict], Iterator[str]]
RETENTIONS = {1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}


def problems(model, parameters) -> Iterator[str]:
    """Of one call."""
    service = model.service_model.service_name
    for rule in (*RULES.get((service, model.name), ()), *((_ec2_tags,) if service == "ec2" else ())):
        for text in rule(parameters):
            yield f"{model.name}: {text}"


def _bucket(parameters) -> Iterator[str]:
    """S3 user guide, "General purpose bucket naming rules"."""
    name = parameters["Bucket"]
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name) or ".." in name:
        yield f"no bucket can be called {name}"
    if name.startswith(("xn--", "sthree-", "amzn-s3-demo-")) or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3")):
        yield f"{name} is reserved"


def _policy(member: str, limit: int) -> Rule:
    """IAM user guide, "IAM and AWS STS quotas": white space is not counted."""

    def rule(parameters) -> Iterator[str]:
        size = len(re.sub(r"\s", "", parameters[member]))
        if size > limit:
            yield f"{member} has {size} characters, IAM takes {limit}"
        json.loads(parameters[member])

    return rule


def _run_instances(parameters) -> Iterator[str]:
    """EC2 user guide: "Ensuring idempotency" and "Run commands at launch" (before base64)."""
    token = parameters.get("ClientToken", "")
    if len(token) > 64 or not token.isascii():
        yield f"ClientToken {token} is longer than 64 ASCII characters"
    if len(parameters.get("UserData", "").encode()) > USER_DATA_LIMIT_BYTES:
        yield "UserData is too long"


def _ec2_tags(parameters) -> Iterator[str]:
    """EC2 user guide, "Tag restrictions"."""
    for specification in parameters.get("TagSpecifications", []):
        if len(specification["Tags"]) > 50:
            yield "more than 50 tags"
        for tag in specification["Tags"]:
            if len(tag["Key"]) > 128 or len(tag["Value"]) > 256 or tag["Key"].startswith("aws:"):
                yield f"tag {tag['Key']} = {tag['Value'][:40]}…"


def _security_group(parameters) -> Iterator[str]:
    """API reference, CreateSecurityGroup."""
    name, description = parameters["GroupName"], parameters["Description"]
    if name.startswith("sg-") or len(name) > 255:
        yield f"no group can be called {name}"
    if not re.fullmatch(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}", description):
        yield f"no description can be {description}"


def _variables(parameters) -> Iterator[str]:
    """Lambda's guide, "Lambda quotas": 4 KB of environment variables together."""
    variables = parameters.get("Environment", {}).get("Variables", {})
    if sum(len(name) + len(value) for name, value in variables.items()) > 4096:
        yield "environment variables of more than 4 KB"


def _alarm(parameters) -> Iterator[str]:
    """API reference, PutMetricAlarm."""
    if sum(name in parameters for name in ("Statistic", "ExtendedStatistic", "Metrics")) != 1:
        yield "one of Statistic, ExtendedStatistic and Metrics is wanted"
    if parameters.get("DatapointsToAlarm", 1) > parameters["EvaluationPeriods"]:
        yield "DatapointsToAlarm is above EvaluationPeriods"


def _retention(parameters) -> Iterator[str]:
    """API reference, PutRetentionPolicy."""
    if parameters["retentionInDays"] not in RETENTIONS:
        yield f"retentionInDays cannot be {parameters['retentionInDays']}"


def _images_lifecycle(parameters) -> Iterator[str]:
    """ECR user guide, "Lifecycle policy evaluation rules"."""
    rules = json.loads(parameters["lifecyclePolicyText"])["rules"]
    numbers = [rule["rulePriority"] for rule in rules]
    if len(set(numbers)) < len(numbers):
        yield "two rules of the same priority"
    if any(rule["selection"]["tagStatus"] == "any" and rule["rulePriority"] < max(numbers) for rule in rules):
        yield "a rule for any image must be the last"


MANAGED, INLINE, TRUST = 6144, 10_240, 2048
RULES: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("s3", "CreateBucket"): (_bucket,),
    ("iam", "CreatePolicy"): (_policy("PolicyDocument", MANAGED),),
    ("iam", "CreatePolicyVersion"): (_policy("PolicyDocument", MANAGED),),
    ("iam", "PutRolePolicy"): (_policy("PolicyDocument", INLINE),),
    ("iam", "CreateRole"): (_policy("AssumeRolePolicyDocument", TRUST),),
    ("iam", "UpdateAssumeRolePolicy"): (_policy("PolicyDocument", TRUST),),
    ("ec2", "RunInstances"): (_run_instances,),
    ("ec2", "CreateSecurityGroup"): (_security_group,),
    ("lambda", "CreateFunction"): (_variables,),
    ("lambda", "UpdateFunctionConfiguration"): (_variables,),
    ("cloudwatch", "PutMetricAlarm"): (_alarm,),
    ("logs", "PutRetentionPolicy"): (_retention,),
    ("ecr", "PutLifecyclePolicy"): (_images_lifecycle,),
}
