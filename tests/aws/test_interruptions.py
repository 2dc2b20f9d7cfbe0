"""Every mutating call interrupted in turn: each state that it can leave is the start of a next run that comes through."""

import pytest
from moto.sagemaker.models import sagemaker_backends

from deploy.ec2_network import Instances, SecurityGroup
from deploy.ec2_template import LaunchTemplate
from deploy.engine import Removal
from tests.support import moto_ext
from tests.support.applied import FULL, apply, destroy, endpoint, plan, writes_of
from tests.support.aws import ACCOUNT, REGION, Killed, Recorder, client, context, everything, stage
from tests.support.command_line import MACHINE_IMAGE
from tests.support.fleet import BUCKET, Node, machines
from tests.support.released import push, upload, will_answer


def step_by_step(run, limit=80, kind=Recorder):
    """Run, allowed one mutating call each time and killed at the next; the number of runs until one comes through."""
    for attempt in range(1, limit):
        recorder = kind(kill_at_write=2)
        try:
            run(recorder=recorder)
        except Killed:
            continue
        return attempt
    pytest.fail(f"not done after {limit} runs that each wrote once")
    return None


ASLEEP = {
    "endpoint": {"kind": "async"},
    "scaling": {"minimum": 0},
    "security": {"boundary": False},
    "function": {"enabled": False},
}


@pytest.mark.parametrize(("tables", "more_than"), [(FULL, 40), (ASLEEP, 30)], ids=["everything", "asynchronous"])
def test_killed_after_every_single_call_apply_and_destroy_still_come_through(aws, tables, more_than):
    """Each state that an interruption can leave is the start of the next run; a run that undid work would never end."""
    config = stage(**tables)
    apply(config)
    want, steps = everything(), len(writes_of(destroy))
    assert step_by_step(lambda recorder: apply(config, recorder=recorder)) > more_than
    assert everything() == want
    assert {step.action for step in plan(config)} == {"keep"}
    assert step_by_step(destroy) == steps
    assert not any(everything().values())


def test_killed_after_every_single_call_a_release_still_comes_through(aws):
    after = stage(endpoint={"instance_type": "ml.g4dn.2xlarge"}, function={"memory_mb": 1024})
    apply()
    assert step_by_step(lambda recorder: apply(after, "b", recorder)) >= 10
    assert {step.action for step in plan(after, "b")} == {"keep"}
    assert endpoint()["EndpointStatus"] == "InService"


class Asking(Recorder):
    """A run may be killed at a question to the model, too; but each run asks until the answer is noted, so none is counted."""

    @property
    def writes(self) -> list[str]:
        return [name for name in super().writes if ":Invoke" not in name]


@pytest.mark.parametrize("more", ["", 'memory_mb = 1024\n[endpoint]\ninstance_type = "ml.g4dn.2xlarge"\n'], ids=["", "changes"])
def test_the_command_release_killed_after_every_single_call_still_comes_through(released, more):
    """Whole: the image is kept, the golden photo asked for, the outcome noted, old releases taken away."""
    released.stage.write_text(released.stage.read_text() + more)
    image, artifact = push(content="next"), upload("b")

    def run(recorder):
        will_answer()
        code, _, err = released("release", "--image", image, "--model-data", artifact, recorder=recorder)
        assert code == 0, err

    assert step_by_step(run, kind=Asking) >= 6
    assert endpoint()["EndpointStatus"] == "InService"
    status = released("status")[1]
    assert (status["endpoint"]["image"], status["endpoint"]["model_data"]) == (image, artifact)
    assert {step["action"] for step in released("apply")[1]["steps"]} == {"keep"}
    assert released("rollback")[1]["config"] == released.first


def killed_at_each_write(run):
    """Every run is killed at one write, then one is left alone: the calls that came through before, kill by kill."""
    for write in range(1, 30):
        recorder = Recorder(kill_at_write=write)
        try:
            run(recorder=recorder)
        except Killed:
            yield recorder.writes
        else:
            return
    pytest.fail("it never comes through")


def rules_of(group) -> list[tuple[int, str]]:
    """(port, source) of each."""
    (found,) = client("ec2").describe_security_groups(GroupNames=[group])["SecurityGroups"]
    rows = [(row["FromPort"], row.get("IpRanges", []), row["UserIdGroupPairs"]) for row in found["IpPermissions"]]
    return sorted([(port, pair["GroupId"]) for port, _, pairs in rows for pair in pairs])


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


def taken_away(deploy, recorder):
    code, document, err = deploy("destroy", "--yes", "--delete-data", recorder=recorder)
    assert (code, document and document["left"]) == (0, []), err


@pytest.mark.slow
def test_train_on_ec2_killed_at_every_single_call_leaves_nothing_that_status_does_not_tell(on_ec2):
    """The run of one that was killed goes on to its own end; the next command starts another. From an empty network each."""
    push("train")
    client("s3").put_object(Bucket=BUCKET, Key="data/dogs/train/pug/a.jpg", Body=b"x")

    def train(recorder=None):
        return on_ec2("train", "--on", "ec2", "--data", "dogs", "--detach", "--instances", "2", recorder=recorder)

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


def everything_that_destroy_meets(deploy, tmp_path):
    """A stage with its own key, an endpoint, a Lambda, jobs that run, instances that train and serve, and a full bucket."""
    key = client("kms").create_key()["KeyMetadata"]["Arn"]
    tables = f'[function]\nurl = true\nprovisioned_maximum = 6\n[security]\nkms_key_arn = "{key}"\n'
    deploy.stage.write_text(f'{deploy.stage.read_text()}{tables}[ec2]\nami_parameter = "{MACHINE_IMAGE}"\n')
    ami = client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    client("ssm").put_parameter(Name=MACHINE_IMAGE, Value=ami, Type="String")
    photos = tmp_path / "dogs" / "train"
    for name in ("beagle", "poodle"):
        (photos / name).mkdir(parents=True)
        (photos / name / "1.jpg").write_bytes(b"photo")
    moto_ext.QUOTAS["L-DB2E81BA"] = 96
    deploy.on_sleep = Node().report

    def run(*words):
        will_answer()
        code, _, err = deploy(*words)
        assert code == 0, (words, err)

    run("apply")
    push("train")
    release = ("--image", push(), "--model-data", upload())
    for words in (
        ("data", str(tmp_path / "dogs"), "--name", "dogs"),
        ("release", *release),
        ("release", "--on", "ec2", *release),
        ("train", "--data", "dogs", "--on", "ec2", "--detach"),
        ("train", "--data", "dogs", "--detach"),
        ("tune", "--data", "dogs", "--detach", "--range", "learning_rate=1e-4:1e-2"),
        ("transform", str(photos), "--detach"),
    ):
        run(*words)
    jobs = sagemaker_backends[ACCOUNT][REGION]
    for row in jobs.hyper_parameter_tuning_jobs.values():
        row.hyper_parameter_tuning_job_status = "InProgress"
    for row in jobs.transform_jobs.values():
        row.transform_job_status = "InProgress"
    for body in (b"old", b"new"):
        client("s3").put_object(Bucket=BUCKET, Key="inbox/dog.jpg", Body=body)
    client("s3").delete_object(Bucket=BUCKET, Key="inbox/dog.jpg")


@pytest.mark.slow
def test_destroy_of_a_busy_stage_killed_after_every_single_call_still_comes_through(deploy, tmp_path):
    everything_that_destroy_meets(deploy, tmp_path)
    there = deploy("destroy", "--dry-run", "--delete-data")[1]["would_delete"]
    assert {key.partition("/")[0] for key in there} >= {
        "jobs",
        "instances",
        "security-group",
        "launch-template",
        "bucket",
        "endpoint",
    }
    written = []

    def run(recorder):
        try:
            code, document, err = deploy("destroy", "--yes", "--delete-data", recorder=recorder)
            assert (code, document and document["left"]) == (0, []), err
        finally:
            written.extend(recorder.writes)

    step_by_step(run)
    assert {"sagemaker:StopTrainingJob", "sagemaker:StopHyperParameterTuningJob", "sagemaker:StopTransformJob"} <= set(written)
    assert {"ec2:TerminateInstances", "ec2:DeleteSecurityGroup", "s3:DeleteObjects", "s3:DeleteBucket"} <= set(written)
    assert not any(everything().values())
    assert machines("pending", "running") == []
    assert [group["GroupName"] for group in client("ec2").describe_security_groups()["SecurityGroups"]] == ["default"]
