"""`release`, `smoke`, `plan` and `status` through the command line, in a fake account."""

import pytest

from tests.support import moto_ext, moto_sagemaker
from tests.support.applied import endpoint, interrupt
from tests.support.aws import Recorder, client, everything
from tests.support.fleet import BUCKET
from tests.support.released import push, upload, will_answer


def test_from_nothing_to_a_release(released):
    assert endpoint()["EndpointConfigName"] == released.first
    model = client("sagemaker").describe_model(ModelName=client("sagemaker").list_models()["Models"][0]["ModelName"])
    assert model["PrimaryContainer"]["Image"] == released.image
    variant = client("sagemaker").describe_endpoint_config(EndpointConfigName=released.first)["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == "al2-ami-sagemaker-inference-gpu-3-1"


def test_plan_before_anything_says_what_is_missing_and_writes_nothing(deploy):
    code, document, _ = deploy("plan")
    assert code == 0
    assert document["release"] is None
    assert {step["action"] for step in document["steps"]} <= {"create", "keep"}
    assert not any(everything().values())


def test_apply_keeps_the_live_release(released):
    code, document, _ = released("apply")
    assert code == 0
    assert document["release"]["image"] == released.image
    assert {step["action"] for step in document["steps"]} == {"keep"}


def test_a_bad_release_rolls_back_and_says_so(released):
    bad = push(content="bad")
    moto_ext.FAIL["kennel-dev"] = "alarm kennel-dev-endpoint-5xx went off"
    code, _, err = released("release", "--image", bad)
    assert code == 1
    assert "rolled the update back" in err
    assert "kennel-dev-endpoint-5xx" in err
    assert endpoint()["EndpointConfigName"] == released.first
    code, document, _ = released("apply")
    assert code == 0, "apply keeps what serves, not what failed"
    assert document["release"]["image"] == released.image


@pytest.mark.parametrize("polls", [12, 2], ids=["while it is waited for", "between plan and apply"])
def test_an_apply_does_not_repeat_somebody_elses_release_that_is_rolled_back(released, monkeypatch, polls):
    monkeypatch.setattr(moto_sagemaker, "POLLS", polls)
    released.on_sleep = interrupt
    moto_ext.FAIL["kennel-dev"] = "alarm kennel-dev-endpoint-5xx went off"
    assert released("release", "--image", push(content="bad"))[0] == 130  # so it goes on there, and this is here:
    released.on_sleep = lambda: None
    recorder = Recorder()
    code, _, err = released("apply", recorder=recorder)
    assert code == 1
    assert f"rolled the update back; it still serves {released.first}" in err
    assert "sagemaker:UpdateEndpoint" not in recorder.writes
    assert endpoint()["EndpointConfigName"] == released.first
    assert {step["action"] for step in released("apply")[1]["steps"]} == {"keep"}


def test_a_dry_smoke_sends_nothing(released):
    will_answer((0.1, 0.2, 0.7))
    code, document, err = released("smoke", "--dry-run")
    assert (code, document["through"]) == (0, ["endpoint", "function"]), err


def test_smoke_looks_through_the_function_too(released):
    will_answer(through_function=(0.1, 0.2, 0.7))
    code, _, err = released("smoke")
    assert code == 1
    assert "smoke through the function" in err


def test_status_tells_what_serves(released):
    code, document, _ = released("status")
    assert code == 0
    assert document["endpoint"]["status"] == "InService"
    assert document["endpoint"]["image"] == released.image
    assert document["function"]["warm"] == 3
    assert document["function"]["url"].startswith("https://")
    assert len(document["alarms"]) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["release", "--model-data", "s3://kennel-dev-123456789012-eu-west-1/training/none.tar.gz"], "does not exist"),
        (["release", "--image", "kennel/serve:latest"], "must be given by digest"),
        (["release", "--job", "kennel-dev-nothing"], "does not exist"),
    ],
)
def test_what_cannot_be_released_is_refused_before_anything_changes(released, words, says):
    before = everything()
    code, _, err = released(*words)
    assert code == 1
    assert says in err
    assert everything() == before


@pytest.mark.parametrize(
    ("model_data", "copy"),
    [
        ("s3://kennel-prod-123456789012-eu-west-1/training/j/output/model.tar.gz", "NAME.tar.gz`"),
        (f"s3://{BUCKET}/data/model.tar.gz", "NAME.tar.gz`"),
        ("model.tar.gz", "aws s3 cp model.tar.gz s3://"),
        ("s3://kennel-prod-123456789012-eu-west-1/models/", "--recursive"),
    ],
)
def test_an_artifact_that_the_endpoint_s_role_cannot_read_is_refused(released, model_data, copy):
    recorder = Recorder()
    code, _, err = released("release", "--model-data", model_data, recorder=recorder)
    assert code == 2
    assert f"reads models below s3://{BUCKET}/training/ and s3://{BUCKET}/models/, and nowhere else" in err
    assert "aws s3 cp" in err
    assert copy in err
    assert recorder.writes == []


def test_an_image_without_its_cuda_label_is_refused(released):
    code, _, err = released("release", "--image", push(content="plain", cuda=None))
    assert code == 1
    assert "org.kennel.cuda" in err


def test_a_released_image_is_shielded_from_the_lifecycle(released):
    details = client("ecr").describe_images(repositoryName="kennel/dev/serve")["imageDetails"][0]
    assert any(tag.startswith("release-") for tag in details["imageTags"])


def test_the_price_ceiling_refuses_before_the_first_write(deploy):
    deploy.stage.write_text('[stage]\nregion = "eu-west-1"\nprice_ceiling_per_month = 100\n')
    code, _, err = deploy("apply")
    assert code == 2
    assert "$2,1" in err
    assert "--yes-cost" in err
    assert not any(everything().values())
    assert deploy("apply", "--yes-cost")[0] == 0


def test_a_new_account_refuses_three_warm_environments_before_the_first_write(deploy):
    moto_ext.ACCOUNT.update(ConcurrentExecutions=10, UnreservedConcurrentExecutions=10)
    code, _, err = deploy("apply")
    assert code == 2
    assert "10 are free of 10" in err
    assert not any(everything().values())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--on", "ec2", "--as", "poodles"], "an instance on EC2 serves one model"),
        (["--on", "ec2", "--no-smoke"], "the server itself checks the golden photo"),
        (["--as", "poodles"], "a real-time endpoint serves one model"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(deploy, words, says):
    recorder = Recorder()
    code, _, err = deploy("release", *words, recorder=recorder)
    assert code == 2
    assert says in err
    assert "try: leave" in err
    assert recorder.calls == []


def test_a_multi_model_endpoint_serves_a_prefix_and_each_release_adds_a_model(deploy):
    deploy.stage.write_text(deploy.stage.read_text() + '[endpoint]\nkind = "multi-model"\ninstance_type = "ml.m5.xlarge"\n')
    assert deploy("apply")[0] == 0
    image, artifact = push(), upload()
    words = ["release", "--model-data", artifact, "--image", image]
    code, _, err = deploy(*words)
    assert code == 1
    assert "under which name?" in err
    for name in ("dogs", "cats"):
        code, _, err = deploy(*words, "--as", name)
        assert code == 0, err
    (model,) = client("sagemaker").list_models()["Models"]
    container = client("sagemaker").describe_model(ModelName=model["ModelName"])["PrimaryContainer"]
    assert (container["Mode"], container["ModelDataUrl"]) == ("MultiModel", f"s3://{BUCKET}/models/")
    listed = client("s3").list_objects_v2(Bucket=BUCKET, Prefix="models/")["Contents"]
    assert [row["Key"] for row in listed] == ["models/cats.tar.gz", "models/dogs.tar.gz"]
