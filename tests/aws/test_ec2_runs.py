"""`train --on ec2` while it runs: what people see of the nodes' reports, in a fake account."""

import dataclasses
import json

import pytest
from moto.ec2.models import ec2_backends

from containers.train.config import TrainConfig
from deploy import ec2
from deploy.ec2_network import Instances
from deploy.errors import DeployError
from deploy.training_request import Run
from tests.support import aws as fake
from tests.support.fleet import BUCKET

RUN = Run(name="r1", image="", dataset="dogs", channels=("train",), hyperparameters=TrainConfig(), checkpoints="r1")
MACHINE_IMAGE = "ami-12c6146b"


def report(host: str, code: int = 0, interrupted: str = "", **files: str) -> None:
    """What a node leaves in the bucket."""
    s3 = fake.client("s3")
    status = {"run": "r1", "host": host, "instance": "i", "exit_code": code, "interrupted": interrupted}
    s3.put_object(Bucket=BUCKET, Key=f"ec2/r1/status/{host}.json", Body=json.dumps(status))
    for name, text in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"ec2/r1/output/{host}/{name.replace('_', '.')}", Body=text)


def started(nodes: int = 2):
    """`nodes` instances of run r1, and the job that watches them."""
    fake.bare_bucket()
    context = fake.context()
    tags = [{"Key": key, "Value": value} for key, value in (context.names.tags | {"run": "r1"}).items()]
    described = [{"ResourceType": "instance", "Tags": tags}]
    fake.client("ec2").run_instances(ImageId=MACHINE_IMAGE, MinCount=nodes, MaxCount=nodes, TagSpecifications=described)
    return context, ec2.Ec2Job(context, "r1", nodes)


def watch(context, job, decide=lambda: "leave", run=RUN, **machines):
    ec2.follow(context, job, decide)
    ec2.conclude(context, run, job, fake.stage(ec2=machines).ec2)


def test_all_nodes_report_success(aws):
    context, job = started()
    context.clock.on_sleep = lambda: [report("algo-1"), report("algo-2")]
    watch(context, job)
    assert "training/r1/output/model.tar.gz" in context.out.text
    assert "2 of 2 instances alive, 0 finished" in context.console.text


def test_a_failure_is_told_in_the_nodes_own_words(aws):
    context, job = started()
    report("algo-1", 1, failure="WorkerFailed: rank 0 was killed (out of memory?)")
    report("algo-2", 66, instance_log="start\nno GPU, or no driver on this machine image\n… ended with exit code 66\n")
    with pytest.raises(DeployError, match="rank 0 was killed") as caught:
        watch(context, job)
    assert "algo-2 (exit code 66): no GPU" in str(caught.value)


def test_an_interrupted_run_is_not_a_failure(aws):
    context, job = started()
    report("algo-1", 0, "spot notice")
    report("algo-2", 1)  # it lost its peer
    watch(context, job)
    assert "Stopped" in context.out.text
    assert "model" not in context.out.text
    assert "--resume r1" in context.console.text


ELASTIC = dataclasses.replace(RUN, hyperparameters=TrainConfig(min_hosts=1))


@pytest.mark.parametrize("lost", ["silent", "taken", "given up"])
def test_a_run_that_went_on_without_a_node_is_complete_where_it_may_lose_one(aws, lost):
    """The first node ended well, so rank 0 has written everything."""
    context, job = started(3)
    report("algo-1")
    report("algo-2")
    if lost == "silent":
        Instances(context).delete()
    else:
        report("algo-3", *{"taken": (0, "spot notice"), "given up": (75,)}[lost], failure="PeerLost: no word from algo-1")
    watch(context, job, run=ELASTIC)
    assert ("algo-3: PeerLost: no word from algo-1" in context.console.text) is (lost == "given up")
    assert "Completed" in context.out.text
    assert "training/r1/output/model.tar.gz" in context.out.text
    assert "lost: algo-3" in context.out.text
    assert "went on to its end without algo-3, as min_hosts allows" in " ".join(context.console.text.split())


def test_a_run_that_may_lose_nodes_is_interrupted_with_its_first(aws):
    context, job = started()
    report("algo-1", 0, "spot notice")
    report("algo-2", 75)
    watch(context, job, run=ELASTIC)
    assert "Stopped" in context.out.text
    assert "--resume r1" in context.console.text


def test_a_run_that_may_lose_nodes_and_failed_says_why(aws):
    context, job = started()
    report("algo-1", 2, failure="DataError: photo x.jpg cannot be used")
    report("algo-2", 2)
    with pytest.raises(DeployError, match=r"photo x\.jpg cannot be used"):
        watch(context, job, run=ELASTIC)


def test_instances_that_vanish_without_a_word(aws):
    context, job = started()
    Instances(context).delete()
    report("algo-2")
    with pytest.raises(DeployError, match="algo-1 ended without a status"):
        watch(context, job)


@pytest.mark.parametrize(
    ("machines", "minutes", "says"),
    [
        ({"spot": True}, 10, "a spot machine may have been taken"),
        ({"spot": True, "max_minutes": 60}, 59, r"\[ec2\] max_minutes \(60\) has ended it"),
        ({"max_minutes": 60}, 61, r"\[ec2\] max_minutes \(60\) has ended it"),
        ({}, 10, "somebody or a fault ended it; `python -m deploy logs --follow --stage dev ec2 r1`"),
    ],
)
def test_what_probably_ended_them_is_said(aws, machines, minutes, says):
    context, job = started(1)

    def end():
        context.clock.on_sleep = lambda: None
        context.clock.seconds += minutes * 60
        Instances(context).delete()

    context.clock.on_sleep = end
    with pytest.raises(DeployError, match=says):
        watch(context, job, **machines)


def test_what_ec2_says_of_their_end_is_told(aws):
    context, job = started(1)
    job.poll()
    Instances(context).delete()
    reason = "Server.SpotInstanceTermination: Instance terminated by its spot interruption"
    for instance in ec2_backends[fake.ACCOUNT][fake.REGION].all_instances():
        instance.state_reason.message = reason
    with pytest.raises(DeployError, match=f"EC2 says: {reason}"):
        watch(context, job, spot=True)


def test_a_network_that_fails_is_not_the_runs_end(aws):
    context, job = started(1)

    def fail():
        raise DeployError("run r1", "Could not connect to the endpoint URL", hint="check the network")

    context.clock.on_sleep = fail
    with pytest.raises(DeployError, match=r"connect.*; r1 goes on without us") as caught:
        watch(context, job)
    assert "logs --follow --stage dev ec2 r1` shows it again; check the network" in caught.value.hint


def test_instances_that_are_not_listed_yet_are_not_gone(aws):
    fake.bare_bucket()
    context = fake.context()
    job = ec2.Ec2Job(context, "r1", 1)
    assert job.poll().startswith("0 of 1 instances alive")
    assert not job.ended
    context.clock.seconds += 121
    job.poll()
    assert job.ended


def test_a_stop_is_an_object_that_the_nodes_look_for(aws):
    context, job = started(1)

    def interrupt():
        context.clock.on_sleep = lambda: report("algo-1", 0, "asked to stop")
        raise KeyboardInterrupt

    context.clock.on_sleep = interrupt
    watch(context, job, lambda: "stop")
    fake.client("s3").head_object(Bucket=context.names.bucket, Key="ec2/r1/stop")
    assert "asked to stop" in context.console.text
