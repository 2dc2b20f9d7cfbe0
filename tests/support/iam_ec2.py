"""What IAM asks for when EC2 is called: the resources of the request, with its tags and what else conditions look at.

From the service authorization reference. What a call makes has no id yet: IAM looks at its kind then (`instance/*`), and at the
tags that it is to carry (`aws:RequestTag`). What is there has its own (`aws:ResourceTag`), read from the fake account.
"""

from tests.support.iam_need import ACCOUNT_WIDE, Need


def needs(call, names) -> list[Need]:
    """(action, resource, context) triples of one recorded call."""
    if not call.writes:
        return [Need(f"ec2:{call.operation}", ACCOUNT_WIDE)]
    made = {
        "RunInstances": _run_instances,
        "CreateLaunchTemplate": lambda p, names: {"launch-template/*": _request_tags(p, "launch-template")},
        "CreateSecurityGroup": lambda p, names: {
            "security-group/*": _request_tags(p, "security-group"),
            f"vpc/{p['VpcId']}": {},
        },
    }.get(call.operation, _standing)
    found = made(call.parameters, names)
    return [Need(f"ec2:{call.operation}", _arn(names, what), context) for what, context in found.items()] + [
        Need(
            "ec2:CreateTags",
            _arn(names, f"{kind}/*"),
            {"ec2:CreateAction": call.operation} | _request_tags(call.parameters, kind),
        )
        for kind in _tagged(call.parameters)
    ]


def _run_instances(p, names) -> dict[str, dict]:
    """Each thing that instances are made of must be allowed; what the launch template says counts as the request's own."""
    data = started_from(p, names)
    found = {
        "instance/*": _request_tags(p, "instance")
        | {"ec2:InstanceType": data["InstanceType"], "ec2:MetadataHttpTokens": data["MetadataOptions"]["HttpTokens"]},
        f"image/{data['ImageId']}": {},
        "network-interface/*": {},
        f"subnet/{p['SubnetId']}": {},
        f"launch-template/{_template(p, names).template.id}": {},
    }
    for mapping in data["BlockDeviceMappings"]:
        encrypted = str(mapping["Ebs"]["Encrypted"]).lower()
        found["volume/*"] = _request_tags(p, "volume") | {"ec2:Encrypted": encrypted}
    found |= {f"security-group/{group}": {} for group in data["SecurityGroupIds"]}
    if "InstanceMarketOptions" in p:
        found["spot-instances-request/*"] = _request_tags(p, "spot-instances-request")
    return found


def started_from(p, names) -> dict:
    """A request's own words, and the launch template's."""
    return _template(p, names).data | p


def _template(p, names):
    """The version that a request names."""
    return _backend(names)._get_template_from_args(p["LaunchTemplate"])


def _standing(p, names) -> dict[str, dict]:
    """What is there already."""
    ids = [("instance", name) for name in p.get("InstanceIds", [])]
    if "GroupId" in p:
        ids.append(("security-group", p["GroupId"]))
    if "LaunchTemplateName" in p:
        ids.append(("launch-template", _backend(names).get_launch_template_by_name(p["LaunchTemplateName"]).id))
    if not ids:
        raise NotImplementedError(p)
    return {f"{kind}/{name}": _resource_tags(names, name) for kind, name in ids}


def _backend(names):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ec2.models import ec2_backends

    return ec2_backends[DEFAULT_ACCOUNT_ID][names.region]


def _resource_tags(names, identity) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in _backend(names).tags.get(identity, {}).items()}


def _request_tags(p, kind) -> dict[str, str]:
    rows = [row for given in p.get("TagSpecifications", []) if given["ResourceType"] == kind for row in given["Tags"]]
    return {f"aws:RequestTag/{row['Key']}": row["Value"] for row in rows}


def _tagged(p) -> list[str]:
    return [given["ResourceType"] for given in p.get("TagSpecifications", [])]


def _arn(names, what) -> str:
    return names.arn("ec2", what, account="" if what.startswith("image/") else None)
