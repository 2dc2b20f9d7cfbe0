"""`release`, `rollback`, `smoke`, `status` and `destroy` through the command line, in a fake account."""

import json

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends

from deploy import __main__ as program
from tests.support import moto_ext
from tests.support.aws import FakeClock, SharedSession, client, everything
from tests.support.released import push, upload, will_answer


@pytest.fixture
def deploy(aws, tmp_path, capsys):
    """Runs `python -m deploy …` in this process; returns (exit code, its JSON or None, stderr)."""
    stage = tmp_path / "dev.toml"
    stage.write_text('[stage]\nregion = "eu-west-1"\nprice_ceiling_per_month = 5000\n[function]\nurl = true\n')

    def run(*words):
        SharedSession.recorder = None
        words = [*words, "--environments", str(tmp_path), "--json"]
        code = program.main(words, session=SharedSession(), clock=FakeClock())
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())

    run.stage = stage
    return run


@pytest.fixture
def released(deploy):
    """A stage with one release."""
    assert deploy("apply")[0] == 0
    image, artifact = push(), upload()
    will_answer()
    code, document, err = deploy("release", "--model-data", artifact, "--image", image)
    assert code == 0, err
    deploy.first = document["config"]
    deploy.image = image
    return deploy


def endpoint():
    return client("sagemaker").describe_endpoint(EndpointName="kennel-dev")


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


def test_a_release_that_answers_wrongly_is_taken_back(released):
    will_answer((0.1, 0.2, 0.7))
    code, _, err = released("release", "--image", push(content="wrong"))
    assert code == 1
    assert "differ by 0.6" in err
    assert f"back on {released.first}" in err
    assert endpoint()["EndpointConfigName"] == released.first


def test_a_dry_smoke_sends_nothing(released):
    will_answer((0.1, 0.2, 0.7))
    code, document, err = released("smoke", "--dry-run")
    assert (code, document["through"]) == (0, ["endpoint", "function"]), err


def test_smoke_looks_through_the_function_too(released):
    will_answer(through_function=(0.1, 0.2, 0.7))
    code, _, err = released("smoke")
    assert code == 1
    assert "smoke through the function" in err


def test_rollback_goes_to_the_one_before_and_apply_stays_there(released):
    will_answer()
    code, document, err = released("release", "--image", push(content="second"))
    assert code == 0, err
    assert endpoint()["EndpointConfigName"] == document["config"] != released.first
    code, document, _ = released("rollback")
    assert (code, document["config"]) == (0, released.first)
    assert endpoint()["EndpointConfigName"] == released.first
    assert {step["action"] for step in released("apply")[1]["steps"]} == {"keep"}


def test_rollback_passes_over_what_never_served_and_what_answered_wrongly(released):
    """Each leaves a configuration that is newer than the release before."""
    moto_ext.FAIL["kennel-dev"] = "no capacity"
    assert released("release", "--image", push(content="bad"))[0] == 1
    will_answer((0.1, 0.2, 0.7))
    assert released("release", "--image", push(content="wrong"))[0] == 1
    code, _, err = released("rollback")
    assert code == 1
    assert "(never served)" in err
    assert "(answered-wrongly)" in err
    will_answer()
    assert released("release", "--image", push(content="better"))[0] == 0
    assert released("rollback")[1]["config"] == released.first


def test_one_that_answered_wrongly_and_now_does_not_is_a_way_back_again(released):
    again = ["release", "--image", push(content="b")]
    will_answer((0.1, 0.2, 0.7))
    assert released(*again)[0] == 1
    will_answer()
    code, document, err = released(*again)
    assert code == 0, err
    will_answer()
    assert released("release", "--image", push(content="c"))[0] == 0
    assert released("rollback")[1]["config"] == document["config"] != released.first


def test_a_first_release_that_answers_wrongly_is_no_way_back(deploy):
    assert deploy("apply")[0] == 0
    will_answer((0.1, 0.2, 0.7))
    assert deploy("release", "--image", push(content="wrong"), "--model-data", upload())[0] == 1
    assert deploy("apply")[0] == 0
    will_answer()
    assert deploy("release", "--image", push(content="right"))[0] == 0
    code, _, err = deploy("rollback")
    assert code == 1
    assert "(answered-wrongly)" in err


def test_failed_releases_do_not_push_out_the_good_ones(released):
    will_answer()
    assert released("release", "--image", push(content="second"))[0] == 0
    for content in ("bad", "worse", "worst"):
        moto_ext.FAIL["kennel-dev"] = "no capacity"
        assert released("release", "--image", push(content=content))[0] == 1
    assert released("apply")[0] == 0
    assert len(everything()["configs"]) == 3
    assert released("rollback")[1]["config"] == released.first


def test_rollback_to_another_instance_type_puts_back_what_wakes_an_asynchronous_endpoint(deploy):
    """Deregistering takes every policy with it: without wake-up, an endpoint on no instance would sleep for ever."""
    plain = deploy.stage.read_text()

    def on(kind):
        deploy.stage.write_text(f'{plain}[endpoint]\nkind = "async"\ninstance_type = "{kind}"\n[scaling]\nminimum = 0\n')

    on("ml.g4dn.xlarge")
    assert deploy("apply")[0] == 0
    assert deploy("release", "--image", push(), "--model-data", upload())[0] == 0
    on("ml.g4dn.2xlarge")
    assert deploy("apply")[0] == 0
    code, _, err = deploy("rollback")
    assert code == 0, err
    policies = client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert "wake-up" in {policy["PolicyName"] for policy in policies}


def test_rollback_names_what_there_is(released):
    code, _, err = released("rollback", "--to", "kennel-dev-0123456789")
    assert code == 1
    assert f"there is none besides the live {released.first}" in err


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


def test_destroy_keeps_the_data_unless_told(released):
    code, document, err = released("destroy", "--yes")
    assert code == 0, err
    assert document["left"] == []
    left = everything()
    assert left.pop("buckets") == ["kennel-dev-123456789012-eu-west-1"]
    assert not any(left.values())
    assert released("destroy", "--yes", "--delete-data")[0] == 0
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
