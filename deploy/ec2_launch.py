"""Starting instances: which machine image, from which launch template, in which zone. For training and for serving alike."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Group
from rich.json import JSON
from rich.text import Text

from deploy.context import Context
from deploy.ec2_network import SecurityGroup, vpc_and_subnets
from deploy.ec2_template import LaunchTemplate
from deploy.engine import Engine, State
from deploy.errors import Refused, code_of, explained

_NO_ROOM = (  # "Unsupported": this zone has no such type
    "InsufficientInstanceCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported", "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",
)  # fmt: skip


def machine_image(context: Context, table: str, disk_gb: int) -> tuple[str, str]:
    """(id, root device) of the image that the SSM parameter names now; the launch template has the id, never `latest`.

    Raises Refused where `disk_gb`, the volume_gb of `[table]`, is less than the image's own disk: EC2 starts no such instance.
    """
    parameter = context.config.ec2.ami_parameter
    with explained(f"SSM parameter {parameter}"):
        image_id = str(context.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"])
        images = context.client("ec2").describe_images(ImageIds=[image_id])["Images"]
    if not images:
        raise Refused(f"machine image {image_id}", "is not there", hint="set [ec2] ami_parameter to another parameter")
    root = str(images[0].get("RootDeviceName") or "/dev/xvda")
    disks = {row.get("DeviceName"): row.get("Ebs", {}) for row in images[0].get("BlockDeviceMappings", [])}
    if disk_gb < (least := int(disks.get(root, {}).get("VolumeSize", 0))):
        problem = f"its disk has {least} GB, and EC2 copies it to none that is smaller: [{table}] volume_gb is {disk_gb}"
        raise Refused(f"machine image {image_id}", problem, hint=f"set [{table}] volume_gb = {least} or more")
    return image_id, root


def start(
    context: Context, run: str, group: SecurityGroup, data: Callable[[str], State], request: State, notes: State | None = None
) -> list[str] | None:
    """Instance ids. `data` makes LaunchTemplateData from the security group's id; `request` is RunInstances' without template.

    A dry run prints what would be sent, with `notes`, and returns None.
    """

    def group_id() -> str:
        return group.key if context.dry_run and group.observe() is None else group.group_id

    template = LaunchTemplate(context, group.purpose, lambda: data(group_id()))
    if context.dry_run:
        planned = {"launch_template": template.planned(), "run_instances": request} | (notes or {})
        context.emit(planned, lambda: _readable(planned))
        return None
    list(Engine([group, template]).apply())
    return launch(context, request | {"LaunchTemplate": template.named()}, run)


def launch(context: Context, request: dict[str, Any], run: str) -> list[str]:
    """Instance ids. AWS checks the request (DryRun) first; where a zone has no such machine free, the next one is tried."""
    ec2 = context.client("ec2")
    _, subnets = vpc_and_subnets(context)
    with explained(f"run {run}"):
        context.patiently("the instance profile", lambda: _rehearse(ec2, request | {"SubnetId": subnets[0]}))
        for number, subnet in enumerate(subnets):
            once = {"SubnetId": subnet, "ClientToken": f"{run}-{number}"}  # a repeated call is the same call
            try:
                answer = context.patiently("the instance profile", partial(ec2.run_instances, **request, **once))
            except ClientError as error:
                if code_of(error) not in _NO_ROOM or subnet == subnets[-1]:
                    raise
                context.say(f"{subnet}: {code_of(error)}, trying the next zone")
            else:
                return [str(row["InstanceId"]) for row in answer["Instances"]]
    raise Refused(f"run {run}", "there is no subnet to run in", hint="set [security] subnet_ids")


def _readable(planned: State) -> Group:
    """The start-up script as lines, not as one string."""
    shown = planned | {"run_instances": planned["run_instances"] | {"UserData": "(below)"}}
    script = Text(planned["run_instances"]["UserData"], style="dim")
    return Group(JSON(json.dumps(shown)), Text("user data:", style="bold"), script)


def _rehearse(ec2: Any, request: dict[str, Any]) -> None:
    """What this one zone lacks, EC2 says here too (awslabs/engineering-development-hub issue 77): another zone may have it."""
    try:
        ec2.run_instances(**request, DryRun=True)
    except ClientError as error:
        if code_of(error) not in ("DryRunOperation", *_NO_ROOM):  # the first is how EC2 says that it would have worked
            raise
