"""`release --on ec2` and `train --on ec2`, killed at every mutating call in turn."""

import pytest

from deploy.ec2_network import Instances, SecurityGroup
from deploy.ec2_template import LaunchTemplate
from deploy.engine import Removal
from tests.support import moto_ext
from tests.support.aws import Killed, client, context, everything, stage
from tests.support.fleet import BUCKET, machines
from tests.support.interrupted import killed_at_each_write, step_by_step
from tests.support.released import push


def rules_of(group) -> list[tuple[int, str]]:
    """(port, source) of each."""
    (found,) = client("ec2").describe_security_groups(GroupNames=[group])["SecurityGroups"]
    rows = [(row["FromPort"], row.get("IpRanges", []), row["UserIdGroupPairs"]) for row in found["IpPermissions"]]
    return sorted([(port, pair["GroupId"]) for port, _, pairs in rows for pair in pairs])


def taken_away(deploy, recorder):
    code, document, err = deploy("destroy", "--yes", "--delete-data", recorder=recorder)
    assert (code, document and document["left"]) == (0, []), err


@pytest.mark.slow
def test_release_on_ec2_killed_at_every_single_call_leaves_one_instance_that_serves(serving):
    """A run cannot take over the instance of one that was killed, so each kill is followed by a run that is left alone."""
    number, through, images = 0, set(), [push(content=f"{number}") for number in range(20)]

    def release(recorder=None):
        """Another image behind another port, on another type: everything that a release can change."""
        kind = ("g4dn.xlarge", "g4dn.2xlarge")[number % 2]
        serving.write(port=9000 + number, instance_type=kind, volume_gb=100 + number)
        return serving("release", "--on", "ec2", "--image", images[number], recorder=recorder)

    moto_ext.QUOTAS["L-DB2E81BA"] = 96
    for writes in killed_at_each_write(release):
        through.update(writes)
        code, document, err = release()
        assert code == 0, err
        assert [row["InstanceId"] for row in machines("pending", "running")] == [document["instance"]]
        (told,) = serving("status")[1]["ec2_serving"]
        assert (told["live"], told["image"]) == (True, document["image"])
        assert [port for port, _ in rules_of("kennel-dev-serve")] == [9000 + number]
        number += 1
    assert through >= {
        "ecr:PutImage",
        "ec2:AuthorizeSecurityGroupIngress",
        "ec2:CreateLaunchTemplateVersion",
        "ec2:RunInstances",
        "ec2:TerminateInstances",
    }
    assert step_by_step(lambda recorder: taken_away(serving, recorder)) >= 10
    assert not any(everything().values())
    assert machines("pending", "running") == []


@pytest.mark.slow
def test_train_on_ec2_killed_at_every_single_call_leaves_nothing_that_status_does_not_tell(on_ec2):
    """The run of one that was killed goes on to its own end; the next command starts another. From an empty network each."""
    push("train")
    client("s3").put_object(Bucket=BUCKET, Key="data/dogs/train/pug/a.jpg", Body=b"x")

    words = ("train", "--on", "ec2", "--data", "dogs", "--instances", "2")

    def train(recorder=None):
        return on_ec2(*words, "--detach", recorder=recorder)

    def killed():
        raise Killed

    def removal():
        made = context(stage())
        return Removal([SecurityGroup(made, "train"), LaunchTemplate(made, "train"), Instances(made)])

    through = []
    for writes in killed_at_each_write(train):
        through.append(writes)
        before = {row["InstanceId"] for row in machines("pending", "running")}
        code, document, err = train()
        assert code == 0, err
        alive = {row["InstanceId"] for row in machines("pending", "running")}
        assert alive == before | set(document["instances"])
        told = on_ec2("status")[1]["ec2_training"]
        assert {name for run in told for name in run["instances"]} == alive
        assert [port for port, _ in rules_of("kennel-dev-train")] == [0]
        list(removal().destroy())
        assert removal().plan() == []
    assert through[-1] == [
        "ec2:CreateSecurityGroup",
        "ec2:AuthorizeSecurityGroupIngress",
        "ec2:CreateLaunchTemplate",
        "ec2:RunInstances",  # the rehearsal
    ], "the last kill is at the call that starts them"
    assert [len(writes) for writes in through] == [0, 1, 2, 3, 4]
    list(removal().destroy())
    on_ec2.on_sleep = killed
    with pytest.raises(Killed):
        on_ec2(*words)
    on_ec2.on_sleep = lambda: None
    assert train()[0] == 0
    told = on_ec2("status")[1]["ec2_training"]
    assert [len(run["instances"]) for run in told] == [2, 2], "one that nobody watches, and the new one"
    list(removal().destroy())
    assert machines("pending", "running") == []
