"""The account's quotas, looked at before the first write.

A new account has none of most GPU machines, and an endpoint without its quota stays in Creating for up to an hour
(amazon-sagemaker-examples issues 3432 and 307). SageMaker counts instances of one type and one use, EC2 the vCPUs of a family,
on demand and spot apart. What other endpoints and jobs of the account use of a SageMaker quota is not known here: AWS decides.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from deploy.context import Context
from deploy.engine import found
from deploy.errors import Refused, code_of, explained

Use = Literal["endpoint", "training job", "spot training job", "training warm pool", "transform job"]
_FAMILIES = {  # of EC2 types → (code on demand, code for spot); the codes are the same in every account
    r"(gr?|vt)\d": ("L-DB2E81BA", "L-3819A6DF"),
    r"p[2-4]": ("L-417A185B", "L-7212CCBC"),
    r"p5": ("L-417A185B", "L-C4BD4855"),  # "Running On-Demand P instances", but "All P5 Spot Instance Requests"
    r"[acdhimrtz]\d": ("L-1216C47A", "L-34B43A08"),
}
_GOING_ON = {  # AWS's answer → what is said; the quota is looked at as a favour, and AWS itself refuses what is too much
    "AccessDenied": "this identity may not read quotas (servicequotas)",
    "AccessDeniedException": "this identity may not read quotas (servicequotas)",
    "TooManyRequestsException": "AWS limits how often quotas are read just now",
    "ThrottlingException": "AWS limits how often quotas are read just now",
    "Throttling": "AWS limits how often quotas are read just now",
}


@dataclass(frozen=True, kw_only=True)
class Quota:
    """`service` and `code` are how Service Quotas knows it."""

    service: str
    name: str
    code: str
    value: float


def require_instances(context: Context, where: str, instance_type: str, use: Use, needed: int) -> Quota | None:
    """SageMaker's `<type> for <use> usage`, where AWS names one. Raises Refused where it is below `needed`."""
    quota = _readable(context, lambda: _sagemaker(context, f"{instance_type} for {use} usage"))
    if quota and quota.value < needed:
        raise _refused(context, where, quota, needed, f"{needed} × {instance_type}")
    return quota


def require_endpoint(context: Context, where: str, live: dict[str, Any] | None) -> None:
    """`live`: the endpoint's variant as described, None before the first release. A new release needs room beside the old one.

    Raises Refused; says so where scaling cannot reach its maximum.
    """
    endpoint, scaling = context.config.endpoint, context.config.scaling
    if endpoint.kind == "serverless":
        return
    needed = max(1, scaling.minimum)
    if live and scaling.profile != "none":
        needed = max(needed, int(live.get("DesiredInstanceCount", 1)))  # the new ones are as many as there are now
    if live and live.get("InstanceType") == endpoint.instance_type:
        needed += int(live.get("DesiredInstanceCount", 1))
    quota = require_instances(context, where, endpoint.instance_type, "endpoint", needed)
    most = max(high for _, high in scaling.possible)
    if quota and scaling.profile != "none" and quota.value < most:
        context.say(f"quota '{quota.name}' is {quota.value:g}: scaling cannot reach its maximum of {most}")


def require_vcpus(context: Context, where: str, instance_type: str, count: int, *, spot: bool) -> None:
    """EC2's vCPUs of the type's family, less what runs. Raises Refused."""
    if (code := _code(instance_type, spot=spot)) is None:
        return
    quota = _readable(context, lambda: _ec2(context, code))
    if quota is None:
        return
    with explained(where):
        needed = count * _vcpus(context, [instance_type])[instance_type]
        used = _used(context, quota.code)
    if used + needed > quota.value:
        raise _refused(context, where, quota, used + needed, f"{count} × {instance_type} ({needed} vCPUs, {used} more in use)")


def _refused(context: Context, where: str, quota: Quota, wanted: int, what: str) -> Refused:
    ask = (
        f"aws service-quotas request-service-quota-increase --region {context.region} --service-code {quota.service} "
        f"--quota-code {quota.code} --desired-value {wanted}"
    )
    problem = f"needs {what}, but the account's quota '{quota.name}' in {context.region} is {quota.value:g}"
    return Refused(where, problem, hint=f"{ask} (AWS takes hours to days), or choose another instance type or region")


def _readable(context: Context, read: Any) -> Quota | None:
    """What `read` finds; None, and said, where this identity may not read quotas, or not so often."""
    try:
        with context.console.status("reading the account's quotas …"), explained("quotas"):
            return read()  # type: ignore[no-any-return]
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and (said := _GOING_ON.get(code_of(cause))):
            context.say(f"{said}: going on without")
            return None
        raise


def _sagemaker(context: Context, name: str) -> Quota | None:
    """By name: each type and use has a code of its own. Applied values first; AWS lists them only where they differ."""
    client = context.client("service-quotas")
    for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
        for page in client.get_paginator(operation).paginate(ServiceCode="sagemaker"):
            for row in page["Quotas"]:
                if row["QuotaName"] == name:
                    return _quota(row, "sagemaker")
    return None


def _ec2(context: Context, code: str) -> Quota | None:
    client = context.client("service-quotas")
    by_code = {"ServiceCode": "ec2", "QuotaCode": code}
    answer = found(client.get_service_quota, **by_code) or found(client.get_aws_default_service_quota, **by_code)
    return answer and _quota(answer["Quota"], "ec2")


def _quota(row: dict[str, Any], service: str) -> Quota:
    return Quota(service=service, name=row["QuotaName"], code=row["QuotaCode"], value=float(row["Value"]))


def _code(instance_type: str, *, spot: bool) -> str | None:
    """Of the quota that counts the type's vCPUs; None for a family that is not known here."""
    return next((codes[spot] for pattern, codes in _FAMILIES.items() if re.match(pattern, instance_type)), None)


def _used(context: Context, code: str) -> int:
    """vCPUs that run in the account and region now and count in this quota."""
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    pages = context.client("ec2").get_paginator("describe_instances").paginate(Filters=states)
    rows = [row for page in pages for reservation in page["Reservations"] for row in reservation["Instances"]]
    machines = [(row["InstanceType"], row.get("InstanceLifecycle") == "spot") for row in rows]
    kinds = [kind for kind, spot in machines if _code(kind, spot=spot) == code]
    sizes = _vcpus(context, sorted(set(kinds)))
    return sum(sizes[kind] for kind in kinds)


def _vcpus(context: Context, kinds: list[str]) -> dict[str, int]:
    if not kinds:
        return {}
    pages = context.client("ec2").get_paginator("describe_instance_types").paginate(InstanceTypes=kinds)
    return {row["InstanceType"]: int(row["VCpuInfo"]["DefaultVCpus"]) for page in pages for row in page["InstanceTypes"]}
