"""What AWS, or somebody in its console, may have put where deploy's own is expected: an error that says what to do."""

import gzip
import json

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends
from moto.sagemakerruntime.models import sagemakerruntime_backends

from deploy import ec2, registry
from deploy.errors import DeployError
from tests.support import moto_ext
from tests.support.aws import Recorder, client, context
from tests.support.fleet import BUCKET
from tests.support.released import push, upload, will_answer

ROLE = "arn:aws:iam::123456789012:role/kennel-dev-serve"


def by_hand(model: dict) -> None:
    """Somebody's own model on the stage's endpoint."""
    sagemaker = client("sagemaker")
    sagemaker.create_model(ModelName="theirs", ExecutionRoleArn=ROLE, **model)
    variant = {"VariantName": "main", "ModelName": "theirs", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    targets = client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    for target in targets:
        where = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        client("application-autoscaling").deregister_scalable_target(**where)
    sagemaker.update_endpoint(EndpointName="kennel-dev", EndpointConfigName="theirs")
    for _ in range(5):
        sagemaker.describe_endpoint(EndpointName="kennel-dev")


IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x@sha256:" + "a" * 64


MODELS = {"several containers": {"Containers": [{"Image": IMAGE}]}, "no data": {"PrimaryContainer": {"Image": IMAGE}}}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_an_endpoint_that_somebody_moved_to_a_model_of_their_own(released, tmp_path, model):
    """Which whoever deploys this stage may not read: each command is held to its duties, the way back above all."""
    by_hand(model)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    for command in (["plan"], ["release", "--image", released.image], ["transform", str(tmp_path / "photos")]):
        code, _, err = released(*command)
        assert code == 1, command
        assert "endpoint-config/theirs: was not made by deploy" in err
        assert "rollback --to" in err
    told = released("status")[1]["endpoint"]
    assert (told["status"], told["image"], told["releases"]) == ("InService", None, [released.first])
    assert "was not made by deploy" in told["note"]
    code, _, err = released("rollback", "--to", released.first)
    assert code == 0, err
    assert released("status")[1]["endpoint"]["config"] == released.first


def test_answers_of_the_endpoint_that_are_no_json(released):
    will_answer()
    runtime = sagemakerruntime_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"]
    runtime.results_queue[:] = [("<html>busy</html>", "text/html", "main", "")]
    code, _, err = released("smoke")
    assert code == 1
    assert "smoke through the endpoint: an answer that is no JSON" in err


@pytest.mark.parametrize("body", [gzip.compress(b"x" * 4096)[:40], b"", b"\x1f\x8b garbage"], ids=["cut", "empty", "garbage"])
def test_an_archive_that_ends_early(deploy, body):
    assert deploy("apply")[0] == 0
    recorder = Recorder()
    words = ["release", "--model-data", upload(body=body), "--image", push()]
    code, _, err = deploy(*words, recorder=recorder)
    assert code == 1
    assert "is not a .tar.gz archive" in err
    assert recorder.writes == [], "it is read before the endpoint moves"


def test_a_stopped_job_without_a_model(deploy):
    assert deploy("apply")[0] == 0
    push("train")
    client("s3").put_object(Bucket=BUCKET, Key="data/dogs/train/pug/a.jpg", Body=b"x")
    code, started, err = deploy("train", "--data", "dogs", "--detach")
    assert code == 0, err
    client("sagemaker").stop_training_job(TrainingJobName=started["job"])
    job = sagemaker_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].training_jobs[started["job"]]
    job.training_job_status, job.model_artifacts = "Stopped", {}
    code, _, err = deploy("release", "--job", started["job"])
    assert code == 1
    assert "was stopped before it left a model" in err


def test_an_image_whose_configuration_cannot_be_read(deploy):
    assert deploy("apply")[0] == 0
    image = push()
    for digest in moto_ext.LAYERS:
        moto_ext.LAYERS[digest] = b"<html>proxy</html>"
    with pytest.raises(DeployError, match="has no configuration that can be read"):
        registry.labels(context(), image)


def test_a_status_that_no_node_wrote():
    for text in ("", "[]", "{}", json.dumps({"exit_code": "x", "interrupted": ""})):
        with pytest.raises(DeployError, match="its status is not a node's"):
            ec2._status(text, "run r1, algo-1")
