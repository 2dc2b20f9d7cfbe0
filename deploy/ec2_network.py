"""What `destroy` must find of training on EC2: the security group, and instances that still run."""

from typing import Any

from deploy.context import Context
from deploy.engine import Changes, Resource, State
from deploy.errors import Refused
from deploy.storage import tag_list

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


class SecurityGroup(Resource):
    """Nodes of one job reach each other on any TCP port (NCCL and Gloo choose theirs); nobody else reaches them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ec2 = context.client("ec2")
        self._name = f"{self.names.base}-train"

    @property
    def key(self) -> str:
        return f"security-group/{self._name}"

    def desired(self) -> State:
        return {"peers": True}

    def observe(self) -> State | None:
        group = self._find()
        if group is None:
            return None
        pairs = [pair for rule in group["IpPermissions"] for pair in rule.get("UserIdGroupPairs", [])]
        return {"peers": any(pair["GroupId"] == group["GroupId"] for pair in pairs)}

    def create(self) -> None:
        vpc, _ = vpc_and_subnets(self.context)
        self._ec2.create_security_group(
            GroupName=self._name,
            Description="Nodes of a training job reach each other",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(self.context.tags)}],
        )
        self._allow_peers()

    def update(self, changes: Changes) -> None:
        del changes  # there is only one thing that can differ
        self._allow_peers()

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

    def _allow_peers(self) -> None:
        mine = self.group_id
        peers = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": mine}]}
        self._ec2.authorize_security_group_ingress(GroupId=mine, IpPermissions=[peers])


class Instances(Resource):
    """Of any run of this stage, while they live. Made by `train --on ec2`; normally they end themselves."""

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
        raise Refused(self.key, "are made by `train --on ec2` only")

    def delete(self) -> None:
        self._ec2.terminate_instances(InstanceIds=self.alive())
        what, seconds = f"{self.key} to end", 600
        self.context.wait(what, lambda: "alive" if self.alive() else "ended", until={"ended"}, limit_seconds=seconds)

    def alive(self, run: str | None = None) -> list[str]:
        """Ids, of one run or of all."""
        wanted = self.names.tags | ({"run": run} if run else {})
        filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]
        filters.append({"Name": "instance-state-name", "Values": list(_ALIVE)})
        pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [row["InstanceId"] for page in pages for reservation in page["Reservations"] for row in reservation["Instances"]]
