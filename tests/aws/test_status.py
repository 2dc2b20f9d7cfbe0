"""`status` tells what runs and costs, whoever started it and whether or not anybody watches."""

import pytest
from moto.sagemaker.models import sagemaker_backends

from deploy import __main__ as program
from tests.support.aws import ACCOUNT, REGION, FakeClock, Screen, SharedSession, client
from tests.support.fleet import BUCKET
from tests.support.released import push


@pytest.fixture
def trained(on_ec2):
    """Two nodes that train, and nobody watches them."""
    push("train")
    client("s3").put_object(Bucket=BUCKET, Key="data/dogs/train/pug/a.jpg", Body=b"x")
    code, on_ec2.run, err = on_ec2("train", "--on", "ec2", "--data", "dogs", "--instances", "2", "--detach")
    assert code == 0, err
    return on_ec2


def people_read(deploy) -> str:
    screen, where = Screen(), ("--environments", str(deploy.stage.parent))
    assert program.main(["status", *where], session=SharedSession(), clock=FakeClock(), out=screen) == 0
    return " ".join(screen.text.split())


def test_instances_that_train(trained):
    (told,) = trained("status")[1]["ec2_training"]
    assert (told["run"], told["instance_type"]) == (trained.run["run"], "g4dn.2xlarge")
    assert sorted(told["instances"]) == sorted(trained.run["instances"])
    assert f"training on EC2 {told['run']}, 2 × g4dn.2xlarge since {told['since']}" in people_read(trained)
    client("ec2").terminate_instances(InstanceIds=trained.run["instances"])
    assert trained("status")[1]["ec2_training"] == []
    assert "running now │ nothing" in people_read(trained)


def test_one_that_serves_is_not_among_them(serving):
    told = serving("status")[1]
    assert len(told["ec2_serving"]) == 1
    assert told["ec2_training"] == []


def test_jobs_and_searches(trained):
    for words in (["train"], ["tune", "--range", "weight_decay=0:0.1"]):
        assert trained(*words, "--data", "dogs", "--detach")[0] == 0
    told = {row["kind"]: row["name"] for row in trained("status")[1]["running_jobs"]}
    assert set(told) == {"TrainingJob", "HyperParameterTuningJob"}
    text = people_read(trained)
    assert f"search {told['HyperParameterTuningJob']}" in text
    assert f"training job {told['TrainingJob']}" in text
    for search in sagemaker_backends[ACCOUNT][REGION].hyper_parameter_tuning_jobs.values():
        search.hyper_parameter_tuning_job_status = "Completed"
    assert "search" not in people_read(trained)
