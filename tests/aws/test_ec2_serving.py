"""`release --on ec2` through the command line, in a fake account: what is started, when the one before ends, what is said."""

import pytest

from tests.support import moto_ext
from tests.support.aws import Killed, Recorder, client, everything
from tests.support.command_line import MACHINE_IMAGE
from tests.support.fleet import BUCKET, machines
from tests.support.released import push, upload


def tags_of(row) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in row["Tags"]}


def test_one_private_instance_serves_the_digest(serving):
    (row,) = machines()
    tags = tags_of(row)
    assert (tags["image"], tags["model"], tags["purpose"]) == (serving.image, serving.artifact, "serve")
    assert serving.first["address"] == row["PrivateIpAddress"]
    assert row["MetadataOptions"]["HttpTokens"] == "required"
    assert row["IamInstanceProfile"]["Arn"].endswith("/kennel-dev-ec2serve")
    assert "KeyName" not in row
    (group,) = client("ec2").describe_security_groups(GroupNames=["kennel-dev-serve"])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (8080, 8080, [])
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
    assert any(tag.startswith("release-") for tag in _tags_in_registry()), "the repository's lifecycle would take it"


def _tags_in_registry() -> list[str]:
    (image,) = client("ecr").describe_images(repositoryName="kennel/dev/serve")["imageDetails"]
    return image["imageTags"]


def test_the_one_before_ends_only_when_the_new_one_is_healthy(serving):
    (before,) = machines()
    recorder = Recorder()
    code, document, err = serving("release", "--on", "ec2", "--image", push(content="b"), recorder=recorder)
    assert code == 0, err
    assert document["model_data"] == serving.artifact, "without another, the live one"
    assert document["retired"] == [before["InstanceId"]]
    ends = [call for call in recorder.calls if call.operation in ("RunInstances", "GetObject", "TerminateInstances")]
    assert str(ends[-1]) == "ec2:TerminateInstances"
    assert [row["InstanceId"] for row in machines("running", "pending")] == [document["instance"]]


def test_a_release_that_never_serves_leaves_the_one_before(serving):
    (before,) = machines()
    serving.node.state, serving.node.reason = "failed", "the server ended three times"
    code, _, err = serving("release", "--on", "ec2", "--image", push(content="bad"))
    assert code == 1
    assert "does not serve: the server ended three times" in err
    assert f"{serving.first['release']} still serves" in err
    assert "instance.log" in err
    assert [row["InstanceId"] for row in machines("running", "pending")] == [before["InstanceId"]]


def test_an_instance_that_says_nothing_is_ended(serving):
    (before,) = machines()
    serving.node.state = "starting"
    code, _, err = serving("release", "--on", "ec2", "--image", push(content="silent"))
    assert code == 1
    assert "still starting after" in err
    assert "was ended" in err
    assert "run the same command again" not in err
    assert [row["InstanceId"] for row in machines("running", "pending")] == [before["InstanceId"]]


def test_who_may_call_and_where_follow_the_file(serving):
    vpc = client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    callers = client("ec2").create_security_group(GroupName="callers", Description="x", VpcId=vpc)["GroupId"]
    serving.write(callers=["10.1.0.0/16", callers], port=9000)
    recorder = Recorder()
    code, _, err = serving("release", "--on", "ec2", recorder=recorder)
    assert code == 0, err
    order = ["RunInstances", "TerminateInstances", "RevokeSecurityGroupIngress"]
    assert [call.operation for call in recorder.calls if call.operation in order and "DryRun" not in call.parameters] == order
    (group,) = client("ec2").describe_security_groups(GroupNames=["kennel-dev-serve"])["SecurityGroups"]
    rules = group["IpPermissions"]
    assert {rule["FromPort"] for rule in rules} == {9000}, "the old port is closed"
    assert [cidr["CidrIp"] for rule in rules for cidr in rule["IpRanges"]] == ["10.1.0.0/16"]
    sources = {pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]}
    assert sources == {callers, group["GroupId"]}


def test_a_disk_that_cannot_hold_the_machine_image_is_refused_before_anything_is_made(on_ec2):
    image, artifact, recorder = push(), upload(), Recorder()
    parameter = client("ssm").get_parameter(Name=MACHINE_IMAGE)["Parameter"]
    moto_ext.DISKS[parameter["Value"]] = 120
    code, _, err = on_ec2("release", "--on", "ec2", "--model-data", artifact, "--image", image, recorder=recorder)
    assert code == 2
    assert "set [ec2_serving] volume_gb = 120 or more" in err
    assert recorder.writes == []


def test_a_dry_run_prints_what_would_be_sent_and_writes_nothing(on_ec2):
    recorder = Recorder()
    artifact, image = upload(), push()
    code, planned, err = on_ec2(
        "release", "--on", "ec2", "--model-data", artifact, "--image", image, "--dry-run", recorder=recorder
    )
    assert code == 0, err
    assert recorder.writes == []
    assert planned["launch_template"]["LaunchTemplateName"] == "kennel-dev-serve"
    assert "docker run" in planned["run_instances"]["UserData"]
    assert "g4dn.xlarge: $0.53 an hour, $384 a month" in err


def test_the_price_ceiling_holds_for_it_too(on_ec2):
    on_ec2.write(instance_type="g4dn.12xlarge")
    on_ec2.stage.write_text(on_ec2.stage.read_text().replace("= 5000", "= 1000"))
    artifact, image = upload(), push()
    words = ["release", "--on", "ec2", "--model-data", artifact, "--image", image]
    recorder = Recorder()
    code, _, err = on_ec2(*words, recorder=recorder)
    assert code == 2
    assert "can cost $2,8" in err, "the instance, not the endpoint that does not exist"
    assert recorder.writes == []
    assert on_ec2(*words, "--yes-cost")[0] == 0


def test_an_image_without_cuda_is_not_put_on_a_gpu(on_ec2):
    artifact = upload()
    words = ["release", "--on", "ec2", "--model-data", artifact]
    code, _, err = on_ec2(*words, "--image", push(cuda="none"))
    assert code == 1
    assert "the image has no CUDA" in err
    on_ec2.write(instance_type="c6i.large")
    assert on_ec2(*words, "--yes-cost")[0] == 0


def test_a_prefix_of_many_models_is_refused_before_anything_starts(on_ec2):
    push()
    client("s3").put_object(Bucket=BUCKET, Key="models/a.tar.gz", Body=b"x")
    recorder = Recorder()
    code, _, err = on_ec2("release", "--on", "ec2", "--model-data", f"s3://{BUCKET}/models/", recorder=recorder)
    assert code == 1
    assert "an instance serves one" in err
    assert recorder.writes == []


def test_a_run_on_ec2_is_released_by_its_name(on_ec2):
    push()
    client("s3").put_object(Bucket=BUCKET, Key="training/kennel-dev-20261122-000000-0001/output/model.tar.gz", Body=b"x")
    code, document, err = on_ec2("release", "--on", "ec2", "--job", "kennel-dev-20261122-000000-0001")
    assert code == 0, err
    assert document["model_data"] == f"s3://{BUCKET}/training/kennel-dev-20261122-000000-0001/output/model.tar.gz"


def test_status_shows_it_and_destroy_takes_it_away(serving):
    (told,) = serving("status")[1]["ec2_serving"]
    assert (told["state"], told["address"]) == ("healthy", serving.first["address"])
    assert told["model_data"] == serving.artifact
    code, document, err = serving("destroy", "--yes", "--delete-data")
    assert code == 0, err
    assert document["left"] == []
    assert not machines("running", "pending")
    assert not any(everything().values())
    assert client("ec2").describe_launch_templates()["LaunchTemplates"] == []
    names = {row["GroupName"] for row in client("ec2").describe_security_groups()["SecurityGroups"]}
    assert names == {"default"}


def test_killed_anywhere_the_next_release_leaves_one_instance(on_ec2):
    words = ["release", "--on", "ec2", "--image", push(), "--model-data", upload()]

    def killed(at: int) -> str:
        """The last call that came through."""
        recorder = Recorder(kill_at_write=at)
        with pytest.raises(Killed):
            on_ec2(*words, recorder=recorder)
        return recorder.writes[-1] if recorder.writes else ""

    assert [killed(at) for at in (1, 2, 2, 2, 2, 2)] == [
        "",
        "ecr:PutImage",
        "ec2:CreateSecurityGroup",
        "ec2:AuthorizeSecurityGroupIngress",
        "ec2:CreateLaunchTemplate",
        "ec2:RunInstances",  # the rehearsal
    ]
    assert not machines()
    assert on_ec2(*words)[0] == 0
    assert killed(3) == "ec2:RunInstances"
    assert len(machines("pending", "running")) == 2, "both serve, until somebody releases again"
    code, document, err = on_ec2(*words)
    assert code == 0, err
    assert len(document["retired"]) == 2
    assert [row["InstanceId"] for row in machines("pending", "running")] == [document["instance"]]


def test_a_model_that_may_load_longer_than_the_instance_waits_is_refused(on_ec2):
    artifact, image = upload(), push()
    on_ec2.stage.write_text(
        on_ec2.stage.read_text() + "\n[serving]\nload_timeout_seconds = 1500\n[endpoint]\nstartup_timeout_seconds = 3600\n"
    )
    recorder = Recorder()
    code, _, err = on_ec2("release", "--on", "ec2", "--model-data", artifact, "--image", image, "--yes-cost", recorder=recorder)
    assert (code, recorder.writes) == (1, [])
    assert "load_timeout_seconds = 1500, but the instance ends itself after 1200 s" in " ".join(err.split())
