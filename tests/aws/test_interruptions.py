"""Every mutating call interrupted in turn: each state that it can leave is the start of a next run that comes through."""

import pytest
from moto.sagemaker.models import sagemaker_backends

from tests.support import moto_ext
from tests.support.applied import FULL, apply, destroy, endpoint, plan, writes_of
from tests.support.aws import ACCOUNT, REGION, Recorder, client, everything, stage
from tests.support.command_line import MACHINE_IMAGE
from tests.support.fleet import BUCKET, Node, machines
from tests.support.interrupted import step_by_step
from tests.support.released import push, upload, will_answer

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
