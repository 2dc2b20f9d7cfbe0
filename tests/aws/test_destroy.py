"""`destroy` through the command line, in a fake account: what it takes away, what it leaves, how it proves it."""

from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends

from deploy import __main__ as program
from tests.support.applied import endpoint
from tests.support.aws import FakeClock, Screen, SharedSession, client, everything
from tests.support.released import push


def test_destroy_keeps_the_data_unless_told(released):
    bucket = "kennel-dev-123456789012-eu-west-1"
    assert released("destroy", "--dry-run")[1]["kept"] == [f"bucket/{bucket}"], "it costs on: said before"
    code, document, err = released("destroy", "--yes")
    assert code == 0, err
    assert (document["left"], document["kept"]) == ([], [f"bucket/{bucket}"])
    left = everything()
    assert left.pop("buckets") == [bucket]
    assert not any(left.values())
    screen, where = Screen(), ("--environments", str(released.stage.parent))
    assert program.main(["destroy", "--yes", *where], session=SharedSession(), clock=FakeClock(), out=screen) == 0
    assert f"stays, with what it holds and costs: bucket/{bucket} (--delete-data" in screen.text
    code, document, err = released("destroy", "--yes", "--delete-data")
    assert (code, document["kept"]) == (0, []), err
    assert not any(everything().values())


def test_destroy_stops_jobs_that_still_run_and_no_other_stages(released, tmp_path):
    """They would go on costing, and fail without their role."""
    photos = tmp_path / "dogs" / "train"
    for name in ("beagle", "poodle"):
        (photos / name).mkdir(parents=True)
        (photos / name / "1.jpg").write_bytes(b"photo")
    assert released("data", str(tmp_path / "dogs"), "--name", "dogs")[0] == 0
    push("train")
    assert released("train", "--data", "dogs", "--detach")[0] == 0
    assert released("tune", "--data", "dogs", "--detach", "--range", "learning_rate=1e-4:1e-2")[0] == 0
    assert released("transform", str(photos), "--detach")[0] == 0
    jobs = sagemaker_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"]
    for tuning in jobs.hyper_parameter_tuning_jobs.values():
        tuning.hyper_parameter_tuning_job_status = "InProgress"
    for transform in jobs.transform_jobs.values():
        transform.transform_job_status = "InProgress"
    (ours,) = jobs.training_jobs
    other = client("sagemaker").describe_training_job(TrainingJobName=ours)
    kept = ("RoleArn", "AlgorithmSpecification", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
    client("sagemaker").create_training_job(TrainingJobName="kennel-dev-eu-20261122", **{name: other[name] for name in kept})
    assert "jobs/kennel-dev" in released("destroy", "--dry-run")[1]["would_delete"]
    code, document, err = released("destroy", "--yes")
    assert code == 0, err
    assert document["deleted"][0] == "jobs/kennel-dev"
    assert jobs.training_jobs[ours].training_job_status == "Stopped"
    assert jobs.training_jobs["kennel-dev-eu-20261122"].training_job_status == "InProgress"
    assert [job.transform_job_status for job in jobs.transform_jobs.values()] == ["Stopped"]
    assert [job.hyper_parameter_tuning_job_status for job in jobs.hyper_parameter_tuning_jobs.values()] == ["Stopped"]


def test_destroy_asks_first(released):
    code, _, err = released("destroy")
    assert code == 2
    assert "--yes" in err
    assert endpoint()["EndpointStatus"] == "InService"


def test_destroy_names_what_its_tags_still_find(released):
    """Something that carries the stage's tags and is none of deploy's own."""
    tags = [{"Key": "project", "Value": "kennel"}, {"Key": "stage", "Value": "dev"}]
    client("sns").create_topic(Name="somebody-elses", Tags=tags)
    code, _, err = released("destroy", "--yes")
    assert code == 1
    assert "its tags still find arn:aws:sns:eu-west-1:123456789012:somebody-elses" in err
