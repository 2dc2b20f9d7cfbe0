"""What surrounds instances, whatever they do: subnets, security groups; and the instances that live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.errors import Refused
from deploy.storage import tag_list

PURPOSES = ("train", "serve")
_ALIVE = ("pending", "running", "shutting-down", "stopping", "stopped")


def vpc_and_subnets(context: Context) -> tuple[str, list[str]]:
    """The stage's own subnets, or the default ones of the region. Raises Refused where there are none."""
    ec2, wanted = context.client("ec2"), list(context.config.security.subnet_ids)
    by = {"SubnetIds": wanted} if wanted else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    subnets = ec2.describe_subnets(**by)["Subnets"]
    if not subnets:
        hint = "set [security] subnet_ids and security_group_ids; instances must reach S3, ECR and CloudWatch from there"
        raise Refused("EC2", f"region {context.region} has no default subnets", hint=hint)
    return str(subnets[0]["VpcId"]), [str(subnet["SubnetId"]) for subnet in subnets]


@dataclass(frozen=True, order=True)
class Rule:
    """Ports that `source` may reach: a range of addresses, a prefix list's or another group's id, or "" for whoever carries
    the group itself.
    """

    first: int
    last: int
    source: str = ""
    protocol: str = "tcp"

    def permission(self, own: str) -> State:
        ports: State = {"IpProtocol": self.protocol}
        if self.protocol != "-1":  # all protocols: there are no ports to name
            ports |= {"FromPort": self.first, "ToPort": self.last}
        if "/" in self.source:
            six = ":" in self.source
            return ports | ({"Ipv6Ranges": [{"CidrIpv6": self.source}]} if six else {"IpRanges": [{"CidrIp": self.source}]})
        if self.source.startswith("pl-"):
            return ports | {"PrefixListIds": [{"PrefixListId": self.source}]}
        return ports | {"UserIdGroupPairs": [{"GroupId": self.source or own}]}


PEERS = Rule(0, 65535)
"""Nodes of one job reach each other on any TCP port: NCCL and Gloo choose theirs."""


class SecurityGroup(Resource):
    """Only what `rules` name reaches the instances. `purpose` is train or serve."""

    def __init__(self, context: Context, purpose: str, rules: Sequence[Rule] = (PEERS,)) -> None:
        super().__init__(context)
        self._ec2 = context.client("ec2")
        self.purpose, self._rules = purpose, sorted(set(rules))
        self._name = f"{self.names.base}-{purpose}"

    @property
    def key(self) -> str:
        return f"security-group/{self._name}"

    def desired(self) -> State:
        return {"rules": self._rules}

    def observe(self) -> State | None:
        group = self._find()
        return group and {"rules": _rules_of(group)}

    def create(self) -> None:
        vpc, _ = vpc_and_subnets(self.context)
        self._ec2.create_security_group(
            GroupName=self._name,
            Description=f"Instances that {self.purpose}",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(self.context.tags)}],
        )
        self._allow(self._rules)

    def update(self, changes: Changes) -> None:
        seen = changes["rules"].seen
        self._allow([rule for rule in self._rules if rule not in seen])
        if gone := [rule for rule in seen if rule not in self._rules]:
            mine = self.group_id
            permissions = [rule.permission(mine) for rule in gone]
            self._ec2.revoke_security_group_ingress(GroupId=mine, IpPermissions=permissions)

    def delete(self) -> None:
        self._ec2.delete_security_group(GroupId=self.group_id)

    @property
    def group_id(self) -> str:
        """Of a group that exists."""
        group = self._find()
        if group is None:
            raise Refused(self.key, "does not exist", hint="run the command again")
        return str(group["GroupId"])

    def _find(self) -> dict[str, Any] | None:
        tags = [{"Name": f"tag:{key}", "Values": [value]} for key, value in self.names.tags.items()]
        groups = self._ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [self._name]}, *tags])
        return next(iter(groups["SecurityGroups"]), None)

    def _allow(self, rules: Sequence[Rule]) -> None:
        if rules:
            mine = self.group_id
            permissions = [rule.permission(mine) for rule in rules]
            self._ec2.authorize_security_group_ingress(GroupId=mine, IpPermissions=permissions)


def _rules_of(group: dict[str, Any]) -> list[Rule]:
    rules = []
    for row in group["IpPermissions"]:
        sources = [pair["GroupId"].replace(group["GroupId"], "") for pair in row.get("UserIdGroupPairs", [])]
        sources += [cidr["CidrIp"] for cidr in row.get("IpRanges", [])]
        sources += [cidr["CidrIpv6"] for cidr in row.get("Ipv6Ranges", [])]
        sources += [prefixes["PrefixListId"] for prefixes in row.get("PrefixListIds", [])]
        ports = (row.get("FromPort", -1), row.get("ToPort", -1))
        rules += [Rule(*ports, source, row["IpProtocol"]) for source in sources]
    return sorted(rules)


class Instances(Resource):
    """Of any run or release of this stage, while they live. Made by `train --on ec2` and `release --on ec2`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ec2 = context.client("ec2")

    @property
    def key(self) -> str:
        return f"instances/{self.names.base}"

    def desired(self) -> State:
        return {}

    def observe(self) -> State | None:
        alive = self.alive()
        return {"instances": alive} if alive else None

    def create(self) -> None:
        raise Refused(self.key, "are made by `train --on ec2` and `release --on ec2` only")

    def delete(self) -> None:
        self._ec2.terminate_instances(InstanceIds=self.alive())
        what, seconds = f"{self.key} to end", 600
        self.context.wait(what, lambda: "alive" if self.alive() else "ended", until={"ended"}, limit_seconds=seconds)

    def alive(self, run: str | None = None) -> list[str]:
        """Ids, of one run or of all."""
        return [row["InstanceId"] for row in instances(self.context, {"run": run} if run else {})]


def instances(context: Context, tags: dict[str, str]) -> list[dict[str, Any]]:
    """DescribeInstances' rows of this stage's that live and carry `tags`."""
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in (context.names.tags | tags).items()]
    filters.append({"Name": "instance-state-name", "Values": list(_ALIVE)})
    pages = context.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
    return [row for page in pages for reservation in page["Reservations"] for row in reservation["Instances"]]
