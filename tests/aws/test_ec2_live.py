"""Which instance counts as the live one, and who may call it while the next one starts."""

import json

import pytest

from tests.support.aws import Killed, client
from tests.support.fleet import BUCKET, machines
from tests.support.released import push


def begin(serving, *words) -> str:
    """A release whose program ends while its instance starts; the instance."""

    def killed():
        raise Killed

    serving.on_sleep = killed
    before = {row["InstanceId"] for row in machines("pending", "running")}
    with pytest.raises(Killed):
        serving("release", "--on", "ec2", *words)
    serving.on_sleep = serving.node.report
    (instance,) = {row["InstanceId"] for row in machines("pending", "running")} - before
    return instance


def say(release: str, **told) -> None:
    told = {"release": release, "address": "10.0.0.9", "port": 8080, "at": "2026-11-22T00:00:00Z"} | told
    client("s3").put_object(Bucket=BUCKET, Key=f"ec2/{release}/status.json", Body=json.dumps(told))


def standing(serving) -> dict[str, tuple[str, bool]]:
    code, told, err = serving("status")
    assert code == 0, err
    return {row["instance"]: (row["state"], row["live"]) for row in told["ec2_serving"]}


def test_one_that_is_still_starting_is_not_the_live_one(serving):
    started = begin(serving, "--image", push(content="b"))
    (row,) = [row for row in machines("pending", "running") if row["InstanceId"] != started]
    assert standing(serving) == {started: ("starting", False), row["InstanceId"]: ("healthy", True)}
    code, document, err = serving("release", "--on", "ec2")
    assert code == 0, err
    assert document["image"] == serving.image, "the next release starts from what serves"
    assert sorted(document["retired"]) == sorted([started, row["InstanceId"]])


def test_one_that_failed_is_not_the_live_one(on_ec2):
    """It says so before it ends itself; a release without a before must name its artifact."""
    push()
    client("s3").put_object(Bucket=BUCKET, Key="training/kennel-dev-20261122-000000-0001/output/model.tar.gz", Body=b"x")
    started = begin(on_ec2, "--job", "kennel-dev-20261122-000000-0001")
    (release,) = [row["release"] for row in on_ec2("status")[1]["ec2_serving"]]
    say(release, state="failed", reason="no GPU")
    assert standing(on_ec2) == {started: ("failed", False)}
    code, _, err = on_ec2("release", "--on", "ec2")
    assert code == 1
    assert "which artifact?" in err


def test_one_whose_container_restarts_stays_the_live_one_where_no_other_is_healthy(serving):
    (row,) = machines("pending", "running")
    say(serving.first["release"], state="unhealthy")
    assert standing(serving) == {row["InstanceId"]: ("unhealthy", True)}
    started = begin(serving, "--image", push(content="b"))
    (other,) = [row["release"] for row in serving("status")[1]["ec2_serving"] if row["instance"] == started]
    assert standing(serving)[row["InstanceId"]] == ("unhealthy", True)
    say(other, state="healthy")
    assert standing(serving) == {started: ("healthy", True), row["InstanceId"]: ("unhealthy", False)}


def test_destroy_ends_one_that_is_still_starting(serving):
    begin(serving)
    assert "instances/kennel-dev" in serving("destroy", "--dry-run")[1]["would_delete"]
    code, document, err = serving("destroy", "--yes", "--delete-data")
    assert (code, document["left"]) == (0, []), err
    assert not machines("pending", "running")


def test_an_instance_without_its_tags_or_with_another_report_is_named(serving):
    (row,) = machines("pending", "running")
    client("s3").put_object(Bucket=BUCKET, Key=f"ec2/{serving.first['release']}/status.json", Body=b"<html>")
    code, _, err = serving("status")
    assert code == 1
    assert "status.json: is no report of an instance" in err
    client("ec2").delete_tags(Resources=[row["InstanceId"]], Tags=[{"Key": "model"}])
    code, _, err = serving("release", "--on", "ec2")
    assert code == 1
    assert f"instance {row['InstanceId']}: has lost its tags model" in err


def callers() -> set[str]:
    (group,) = client("ec2").describe_security_groups(GroupNames=["kennel-dev-serve"])["SecurityGroups"]
    return {cidr["CidrIp"] for rule in group["IpPermissions"] for cidr in rule["IpRanges"]}


def test_who_may_call_no_longer_may_until_the_new_one_is_healthy(on_ec2):
    """The same group guards the old instance."""
    on_ec2.write(callers=["10.1.0.0/16"])
    image = push()
    client("s3").put_object(Bucket=BUCKET, Key="training/kennel-dev-20261122-000000-0001/output/model.tar.gz", Body=b"x")
    assert on_ec2("release", "--on", "ec2", "--job", "kennel-dev-20261122-000000-0001")[0] == 0
    on_ec2.write(callers=["10.2.0.0/16"])
    seen = []

    def meanwhile():
        seen.append(callers())
        on_ec2.node.report()

    on_ec2.on_sleep = meanwhile
    code, _, err = on_ec2("release", "--on", "ec2", "--image", image)
    assert code == 0, err
    assert seen[0] == {"10.1.0.0/16", "10.2.0.0/16"}
    assert callers() == {"10.2.0.0/16"}
    on_ec2.write(callers=["10.3.0.0/16"])
    on_ec2.node.state, on_ec2.node.reason = "failed", "no"
    assert on_ec2("release", "--on", "ec2")[0] == 1
    assert callers() == {"10.2.0.0/16", "10.3.0.0/16"}, "the old instance goes on answering its callers"


def test_what_nobody_depends_on_is_closed_before_an_instance_starts(on_ec2):
    on_ec2.write(callers=["10.1.0.0/16"])
    push()
    client("s3").put_object(Bucket=BUCKET, Key="training/kennel-dev-20261122-000000-0001/output/model.tar.gz", Body=b"x")
    begin(on_ec2, "--job", "kennel-dev-20261122-000000-0001")
    on_ec2.write(callers=["10.2.0.0/16"])
    begin(on_ec2, "--job", "kennel-dev-20261122-000000-0001")
    assert callers() == {"10.2.0.0/16"}
