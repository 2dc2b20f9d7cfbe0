"""What surrounds instances, whatever they do: subnets, security groups; and the instances that live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deploy.context import Context
from deploy.engine import Changes, Resource, Standing, State
from deploy.errors import Refused, TimedOut, code_of
from deploy.storage import our_tags, tag_list

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
    """Only what `rules` name reaches the instances. `purpose` is train or serve.

    EC2 takes a group's name once in each VPC, so there is one of ours where the instances go, whoever makes it first;
    `delete` takes those that earlier subnets have left in other VPCs, too.
    """

    def __init__(self, context: Context, purpose: str, rules: Sequence[Rule] = (PEERS,), *, keep_others: bool = False) -> None:
        """`keep_others`: rules that are there and not wanted stay, for now: somebody may depend on them."""
        super().__init__(context)
        self._ec2 = context.client("ec2")
        self.purpose, self._rules, self._keep_others = purpose, sorted(set(rules)), keep_others
        self._name = f"{self.names.base}-{purpose}"

    @property
    def key(self) -> str:
        return f"security-group/{self._name}"

    def desired(self) -> State:
        return {"rules": self._rules}

    def observe(self) -> State | None:
        group = self._here()
        if group is None:
            return None
        rules = _rules_of(group)
        return {"rules": [rule for rule in rules if rule in self._rules] if self._keep_others else rules}

    def exists(self) -> bool:
        return bool(self._everywhere())

    def create(self) -> None:
        try:
            self._ec2.create_security_group(
                GroupName=self._name,
                Description=f"Instances that {self.purpose}",
                VpcId=self._vpc(),
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(self.context.tags)}],
            )
        except ClientError as error:
            if code_of(error) != "InvalidGroup.Duplicate":  # made a moment ago, and not listed yet
                raise
        rules = _rules_of(self._listed())
        self._allow([rule for rule in self._rules if rule not in rules])

    def update(self, changes: Changes) -> None:
        seen = changes["rules"].seen
        self._allow([rule for rule in self._rules if rule not in seen])
        if gone := [rule for rule in seen if rule not in self._rules]:
            mine = self.group_id
            permissions = [rule.permission(mine) for rule in gone]
            self._ec2.revoke_security_group_ingress(GroupId=mine, IpPermissions=permissions)

    def delete(self) -> None:
        for group in self._everywhere():
            self._ec2.delete_security_group(GroupId=group["GroupId"])

    @property
    def group_id(self) -> str:
        """Of a group that exists, in the VPC of the stage's subnets."""
        return str(self._listed()["GroupId"])

    def _vpc(self) -> str:
        return vpc_and_subnets(self.context)[0]

    def _here(self) -> dict[str, Any] | None:
        """Raises Refused where somebody else has the name."""
        group = next(iter(self._named({"vpc-id": self._vpc()})), None)
        if group and our_tags(group.get("Tags", []), self.names.tags) != self.names.tags:
            hint = f"delete or rename {group['GroupId']}, or give it the tags {tag_list(self.names.tags)} if it is this stage's"
            raise Refused(self.key, f"{group['GroupId']} has the name and not this stage's tags", hint=hint)
        return group

    def _listed(self) -> dict[str, Any]:
        """EC2 lists a new group with some delay. Raises TimedOut."""
        if group := self._here():
            return group
        what = f"{self.key} to be listed"

        def listed() -> str:
            return "there" if self._here() else "absent"

        self.context.wait(what, listed, until={"there"}, limit_seconds=60, every_seconds=3)
        if (group := self._here()) is None:
            raise TimedOut(what, "it came and went", hint="run the same command again")
        return group

    def _everywhere(self) -> list[dict[str, Any]]:
        return self._named({f"tag:{key}": value for key, value in self.names.tags.items()})

    def _named(self, more: dict[str, str]) -> list[dict[str, Any]]:
        filters = [{"Name": name, "Values": [value]} for name, value in ({"group-name": self._name} | more).items()]
        return list(self._ec2.describe_security_groups(Filters=filters)["SecurityGroups"])

    def _allow(self, rules: Sequence[Rule]) -> None:
        """One by one: what is there and not listed yet would make EC2 refuse them all."""
        mine = self.group_id if rules else ""
        for rule in rules:
            try:
                self._ec2.authorize_security_group_ingress(GroupId=mine, IpPermissions=[rule.permission(mine)])
            except ClientError as error:
                if code_of(error) != "InvalidPermission.Duplicate":
                    raise


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


class Instances(Standing):
    """Of any run or release of this stage, while they live. Made by `train --on ec2` and `release --on ec2`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ec2 = context.client("ec2")

    @property
    def key(self) -> str:
        return f"instances/{self.names.base}"

    def exists(self) -> bool:
        return bool(self.alive())

    def delete(self) -> None:
        self._ec2.terminate_instances(InstanceIds=self.alive())
        what, seconds = f"{self.key} to end", 600
        self.context.wait(what, lambda: "alive" if self.alive() else "ended", until={"ended"}, limit_seconds=seconds)

    def alive(self, run: str | None = None) -> list[str]:
        """Ids, of one run or of all."""
        return [row["InstanceId"] for row in instances(self.context, {"run": run} if run else {})]

    def ended(self, run: str) -> list[dict[str, Any]]:
        """Rows of one run's that ended within about an hour."""
        return instances(self.context, {"run": run}, ("terminated",))


def instances(context: Context, tags: dict[str, str], states: Sequence[str] = _ALIVE) -> list[dict[str, Any]]:
    """DescribeInstances' rows of this stage's that are in one of these states and carry `tags`."""
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in (context.names.tags | tags).items()]
    filters.append({"Name": "instance-state-name", "Values": list(states)})
    pages = context.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
    return [row for page in pages for reservation in page["Reservations"] for row in reservation["Instances"]]
