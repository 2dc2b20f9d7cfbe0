"""The security group of instances, in a fake account."""

from deploy.ec2_network import SecurityGroup
from deploy.engine import Engine
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
