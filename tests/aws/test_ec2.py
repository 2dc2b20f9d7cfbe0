"""`train --on ec2` in a fake account: what is asked of EC2, and what people see of the nodes' reports."""

import argparse
import json

import pytest
from botocore.exceptions import ClientError

from containers.core.errors import ConfigError
from containers.train.config import TrainConfig
from deploy import ec2, ec2_launch, training
from deploy.ec2_network import Instances, SecurityGroup
from deploy.ec2_request import run_instances, training_machine
from deploy.ec2_template import LaunchTemplate
from deploy.errors import DeployError, Refused
from deploy.training_request import Run
from tests.support import aws as fake
from tests.support import moto_ext

IMAGE = f"{fake.ACCOUNT}.dkr.ecr.{fake.REGION}.amazonaws.com/kennel/dev/train@sha256:" + "a" * 64
RUN = Run(name="r1", image=IMAGE, dataset="dogs", channels=("train",), hyperparameters=TrainConfig(), checkpoints="r1")
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
PARAMETER, MACHINE_IMAGE = "/kennel-test/machine-image", "ami-12c6146b"


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    return parser.parse_args(["--data", "dogs", "--on", "ec2", "--image", IMAGE, *flags])


def ready(recorder=None, **options):
    """A stage with a dataset, an instance profile and a machine image."""
    bucket, profile = fake.bare_bucket(), "kennel-dev-ec2"
    fake.client("s3").put_object(Bucket=bucket, Key="data/dogs/train/pug/a.jpg", Body=b"x")
    fake.client("ssm").put_parameter(Name=PARAMETER, Value=MACHINE_IMAGE, Type="String")
    fake.client("iam").create_instance_profile(InstanceProfileName=profile)
    return fake.context(fake.stage(ec2={"ami_parameter": PARAMETER}), recorder, **options)


def instances() -> list[dict]:
    reservations = fake.client("ec2").describe_instances()["Reservations"]
    return [row for reservation in reservations for row in reservation["Instances"]]


def test_the_request():
    config = fake.stage(ec2={"instance_count": 2, "spot": True}, security={"kms_key_arn": KEY})
    where = {"image_id": "ami-1", "root_device": "/dev/sda1", "group_id": "sg-1"}
    names = fake.context(config).names_in(fake.ACCOUNT)
    sent = run_instances(config, names, RUN, {"project": "kennel"})
    machine = training_machine(config, names, **where)
    assert (sent["MinCount"], sent["MaxCount"]) == (2, 2)
    assert machine["MetadataOptions"] == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert machine["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert machine["IamInstanceProfile"] == {"Name": "kennel-dev-ec2"}
    (disk,) = machine["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/sda1"
    assert disk["Ebs"]["Encrypted"]
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["KmsKeyId"]) == ("gp3", KEY)
    assert sent["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert {row["ResourceType"] for row in sent["TagSpecifications"]} == {"instance", "volume", "spot-instances-request"}
    assert "KeyName" not in sent | machine
    assert not set(sent) & set(machine), "the request would overrule the template"


def test_instances_have_what_the_launch_template_says(aws):
    training.run(arguments("--detach"), ready())
    (instance,) = instances()
    options = instance["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/kennel-dev-ec2")
    shutdown = fake.client("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert shutdown["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert (instance["ImageId"], instance["InstanceType"]) == (MACHINE_IMAGE, "g4dn.2xlarge")


def test_a_version_of_the_template_is_made_once_and_used_again(aws):
    context = ready()
    kinds = ("g4dn.2xlarge", "g4dn.2xlarge", "g4dn.xlarge", "g4dn.2xlarge")
    for kind in kinds:
        training.run(arguments("--detach", "--instance-type", kind), context)
    assert [row["InstanceType"] for row in instances()] == list(kinds)
    found = fake.client("ec2").describe_launch_template_versions(LaunchTemplateName="kennel-dev-train")
    assert len(found["LaunchTemplateVersions"]) == 2
    (template,) = fake.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert {"Key": "stage", "Value": "dev"} in template["Tags"]


def test_two_nodes_start_in_one_call_after_a_rehearsal(aws):
    recorder = fake.Recorder()
    context = ready(recorder)
    training.run(arguments("--instances", "2", "--detach"), context)
    calls = [call for call in recorder.calls if call.operation == "RunInstances"]
    assert [call.parameters.get("DryRun", False) for call in calls] == [True, False]
    assert calls[1].parameters["ClientToken"].endswith("-0")
    assert len(instances()) == 2
    assert {row["InstanceType"] for row in instances()} == {"g4dn.2xlarge"}
    (group,) = fake.client("ec2").describe_security_groups(GroupNames=["kennel-dev-train"])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    assert rule["IpRanges"] == []
    assert {row["SecurityGroups"][0]["GroupId"] for row in instances()} == {group["GroupId"]}


def test_a_second_run_uses_the_same_group(aws):
    context = ready()
    for _ in range(2):
        training.run(arguments("--detach"), context)
    assert len(fake.client("ec2").describe_security_groups(GroupNames=["kennel-dev-train"])["SecurityGroups"]) == 1


def test_a_dry_run_prints_the_request_and_writes_nothing(aws, capsys):
    recorder = fake.Recorder()
    context = ready(recorder, dry_run=True, as_json=True)
    training.run(arguments(), context)
    planned = json.loads(capsys.readouterr().out)
    assert planned["launch_template"]["LaunchTemplateData"]["SecurityGroupIds"] == ["security-group/kennel-dev-train"]
    assert planned["run_instances"]["MinCount"] == 1
    assert recorder.writes == []


class Zones:
    """EC2, where the first zones have no room; and where the rehearsal may be refused."""

    def __init__(self, full: int, refusal: str = "") -> None:
        self.full, self.refusal, self.asked = full, refusal, []

    def describe_subnets(self, **_):
        return {"Subnets": [{"SubnetId": f"subnet-{letter}", "VpcId": "vpc-1"} for letter in "abc"]}

    def run_instances(self, **request):
        if request.get("DryRun"):
            raise ClientError({"Error": {"Code": self.refusal or "DryRunOperation", "Message": ""}}, "RunInstances")
        self.asked.append((request["SubnetId"], request["ClientToken"]))
        if len(self.asked) <= self.full:
            raise ClientError({"Error": {"Code": "InsufficientInstanceCapacity", "Message": ""}}, "RunInstances")
        return {"Instances": [{"InstanceId": "i-1"}]}


def launch(zones: Zones):
    context = fake.context(session=fake.Instead(zones))
    return ec2_launch.launch(context, {}, "r1"), context


def test_the_next_zone_is_tried_where_one_has_no_room():
    zones = Zones(full=1)
    started, context = launch(zones)
    assert started == ["i-1"]
    assert zones.asked == [("subnet-a", "r1-0"), ("subnet-b", "r1-1")]  # another request needs another token
    assert "trying the next zone" in context.console.text


def test_a_first_zone_without_such_a_type_ends_nothing():
    """EC2 says so in the rehearsal already; us-east-1e has few types with a GPU, and any zone may be the first."""
    zones = Zones(full=1, refusal="Unsupported")
    started, _ = launch(zones)
    assert (started, len(zones.asked)) == (["i-1"], 2)


@pytest.mark.parametrize("message", ["Invalid IAM Instance Profile name", "IAM Instance Profile x has no associated IAM Roles"])
@pytest.mark.parametrize("rehearsed", [True, False])
def test_an_instance_profile_that_ec2_does_not_know_yet_is_waited_for(aws, message, rehearsed):
    """Whether the rehearsal looks at it is EC2's secret."""
    unknown, well = ("InvalidParameterValue", message), ("DryRunOperation", "Request would have succeeded")
    moto_ext.YOUNG["RunInstances"] = [unknown, unknown] if rehearsed else [well, unknown, unknown]
    context = ready()
    training.run(arguments("--detach"), context)
    assert len(instances()) == 1
    assert "waiting for the instance profile" in context.console.text


def test_a_launch_template_that_ec2_does_not_list_yet_is_waited_for(aws):
    context = ready()
    missing = ("InvalidLaunchTemplateName.NotFoundException", "At least one of the launch templates does not exist.")
    moto_ext.YOUNG["DescribeLaunchTemplateVersions"] = [missing, missing]  # it is looked for, made, and looked for again
    training.run(arguments("--detach"), context)
    assert len(instances()) == 1


def test_no_room_anywhere_and_no_permission_are_explained():
    with pytest.raises(DeployError, match="InsufficientInstanceCapacity") as caught:
        launch(Zones(full=3))
    assert "another zone" in caught.value.hint
    zones = Zones(full=0, refusal="UnauthorizedOperation")
    with pytest.raises(DeployError, match="UnauthorizedOperation"):
        launch(zones)
    assert zones.asked == []


def test_flags_and_what_is_missing(aws):
    config = ec2.adjusted(fake.stage(), arguments("--instance-type", "ml.g5.xlarge", "--spot", "--instances", "4"))
    assert (config.ec2.instance_type, config.ec2.spot, config.ec2.instance_count) == ("g5.xlarge", True, 4)
    with pytest.raises(ConfigError, match="instance_count"):
        ec2.adjusted(fake.stage(), arguments("--instances", "99"))
    with pytest.raises(DeployError, match="ParameterNotFound"):
        ec2_launch.machine_image(fake.context(fake.stage(ec2={"ami_parameter": "/no/such"})), "ec2", 100)


@pytest.mark.parametrize("flags", [(), ("--detach",)], ids=["watched", "detached"])
def test_a_disk_that_cannot_hold_the_machine_image_is_refused_before_anything_is_made(aws, flags):
    """EC2 itself says so only once there are a group and a template."""
    recorder = fake.Recorder()
    context = ready(recorder)
    moto_ext.DISKS[MACHINE_IMAGE] = 101
    with pytest.raises(Refused, match=r"disk has 101 GB.*\[ec2\] volume_gb is 100") as caught:
        training.run(arguments(*flags), context)
    assert caught.value.hint == "set [ec2] volume_gb = 101 or more"
    assert recorder.writes == []
    moto_ext.DISKS[MACHINE_IMAGE] = 100
    training.run(arguments("--detach"), context)
    assert len(instances()) == 1


def test_a_stage_of_instance_groups_says_which_one_type_it_is_here():
    groups = [{"name": "a", "instance_type": "ml.g4dn.xlarge"}, {"name": "b", "instance_type": "ml.g5.xlarge"}]
    tables = {"training": {"instance_groups": groups}}
    with pytest.raises(ConfigError, match=r"plain instances of one run are of one type: say which with \[ec2\] instance_type"):
        ec2.adjusted(fake.stage(**tables), arguments())
    assert ec2.adjusted(fake.stage(**tables), arguments("--instance-type", "g5.xlarge")).ec2.instance_type == "g5.xlarge"
    own = fake.stage(**tables, ec2={"instance_type": "g5.2xlarge"})
    assert ec2.adjusted(own, arguments("--instances", "2")).ec2.instance_type == "g5.2xlarge"


def test_more_hosts_cannot_be_left_than_there_are(aws):
    recorder = fake.Recorder()
    context = ready(recorder)
    with pytest.raises(ConfigError, match="min_hosts is 3 and the job has 2 hosts"):
        training.run(arguments("--instances", "2", "--set", "min_hosts=3", "--detach"), context)
    assert recorder.writes == []


def test_destroy_ends_running_instances_and_removes_what_they_started_from(aws):
    context = ready()
    training.run(arguments("--detach"), context)
    for resource in (Instances(context), LaunchTemplate(context, "train"), SecurityGroup(context, "train")):
        assert resource.exists()
        resource.delete()
        assert not resource.exists()
    assert {row["State"]["Name"] for row in instances()} == {"terminated"}


def test_a_region_without_subnets_is_refused():
    empty = argparse.Namespace(describe_subnets=lambda **_: {"Subnets": []})
    context = fake.context(session=fake.Instead(empty))
    with pytest.raises(Refused, match="no default subnets"):
        ec2_launch.launch(context, {}, "r1")
