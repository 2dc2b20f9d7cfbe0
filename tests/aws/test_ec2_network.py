"""The security group of instances, in a fake account."""

import pytest

from deploy.ec2_network import PEERS, SecurityGroup
from deploy.engine import Engine, Removal
from deploy.errors import Refused
from tests.support import aws as fake


def test_a_group_is_brought_back_to_its_rules(aws):
    context = fake.context()
    group = SecurityGroup(context, "train")
    list(Engine([group]).apply())
    where = {"GroupId": group.group_id}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    six = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    listed = {"IpProtocol": "tcp", "FromPort": 23, "ToPort": 23, "PrefixListIds": [{"PrefixListId": "pl-0123"}]}
    fake.client("ec2").authorize_security_group_ingress(**where, IpPermissions=[ssh, everything, six, listed])
    (step,) = Engine([SecurityGroup(context, "train")]).apply()
    assert step.action == "update"
    (step,) = Engine([SecurityGroup(context, "train")]).plan()
    assert step.action == "keep"
    (seen,) = fake.client("ec2").describe_security_groups(GroupIds=[group.group_id])["SecurityGroups"]
    (row,) = seen["IpPermissions"]
    assert (row["IpRanges"], row["Ipv6Ranges"], row["PrefixListIds"]) == ([], [], [])


class Late:
    """EC2 that lists no security group for the first `blind` looks, as it may after one was made."""

    def __init__(self, blind: int) -> None:
        self.blind, self._ec2 = blind, fake.client("ec2")

    def __getattr__(self, name):
        return getattr(self._ec2, name)

    def describe_security_groups(self, **asked):
        self.blind -= 1
        return {"SecurityGroups": []} if self.blind >= 0 else self._ec2.describe_security_groups(**asked)


class LateSession:
    def __init__(self, late: Late) -> None:
        self.late = late

    def client(self, service, **options):
        return self.late if service == "ec2" else fake.SharedSession().client(service)


def groups(**by) -> list[dict]:
    filters = [{"Name": "group-name", "Values": ["kennel-dev-train"]}]
    return fake.client("ec2").describe_security_groups(Filters=filters, **by)["SecurityGroups"]


def test_a_group_that_ec2_does_not_list_yet_is_not_made_twice(aws):
    """Neither by the run that made it, nor by the next one."""
    for _ in range(2):
        context = fake.context(session=LateSession(Late(blind=4)))
        (step,) = Engine([SecurityGroup(context, "train")]).apply()
        assert step.action == "create"
        (group,) = groups()
        (rule,) = group["IpPermissions"]
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    assert Engine([SecurityGroup(fake.context(), "train")]).plan()[0].action == "keep"


def test_a_rule_that_ec2_does_not_list_yet_is_no_error(aws):
    context = fake.context()
    group = SecurityGroup(context, "train")
    group.create()
    group._allow([PEERS])
    (row,) = groups()
    assert len(row["IpPermissions"]) == 1


def test_each_vpc_has_a_group_of_its_own_and_destroy_takes_them_all(aws):
    ec2 = fake.client("ec2")
    list(Engine([SecurityGroup(fake.context(), "train")]).apply())
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    moved = fake.context(fake.stage(security={"subnet_ids": [subnet], "security_group_ids": ["sg-0123"]}))
    group = SecurityGroup(moved, "train")
    list(Engine([group]).apply())
    assert len(groups()) == 2
    (here,) = groups(GroupIds=[group.group_id])
    assert here["VpcId"] == vpc
    list(Removal([SecurityGroup(moved, "train")]).destroy())
    assert groups() == []


def test_somebody_elses_group_of_that_name_is_left_alone_and_named(aws):
    vpc = fake.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    made = fake.client("ec2").create_security_group(GroupName="kennel-dev-train", Description="theirs", VpcId=vpc)
    with pytest.raises(Refused, match=f"{made['GroupId']} has the name and not this stage's tags"):
        list(Engine([SecurityGroup(fake.context(), "train")]).apply())
    assert groups()[0]["IpPermissions"] == []
