"""`transform` through the command line: what is sent to SageMaker, at what price, and what the same command does again."""

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sagemaker.models import sagemaker_backends

from tests.support.aws import REGION, Recorder
from tests.support.released import push, will_answer

MEGABYTE = 1_000_000
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "small.jpg").write_bytes(b"photo")
    return folder


@pytest.mark.parametrize(("size", "payload"), [(1, 1), (7 * MEGABYTE, 7), (7 * MEGABYTE + 1, 8), (100 * MEGABYTE, 100)])
def test_the_job_takes_its_largest_photo(released, photos, size, payload):
    """Without it SageMaker takes 6 MB, and one larger photo fails the whole job."""
    with (photos / "large.jpg").open("wb") as file:
        file.truncate(size)
    recorder = Recorder()
    code, document, err = released("transform", str(photos), "--dry-run", recorder=recorder)
    assert code == 0, err
    assert document["create_transform_job"]["MaxPayloadInMB"] == payload
    assert recorder.writes == []


@pytest.mark.parametrize(("kind", "volume"), [("ml.g4dn.xlarge", None), ("ml.m5.xlarge", KEY)])
def test_answers_and_disks_are_under_the_stages_key(released, photos, kind, volume):
    code, document, err = released("transform", str(photos), "--instance-type", kind, "--dry-run")
    assert code == 0, err
    assert "kms" not in str(document["create_transform_job"]).lower()
    released.stage.write_text(f'{released.stage.read_text()}[security]\nkms_key_arn = "{KEY}"\n')
    code, document, err = released("transform", str(photos), "--instance-type", kind, "--dry-run")
    assert code == 0, err
    assert document["create_transform_job"]["TransformOutput"]["KmsKeyId"] == KEY
    assert document["create_transform_job"]["TransformResources"].get("VolumeKmsKeyId") == volume


def test_a_photo_that_no_job_takes_is_named_before_anything_is_uploaded(released, photos):
    with (photos / "large.jpg").open("wb") as file:
        file.truncate(105 * MEGABYTE)
    recorder = Recorder()
    code, _, err = released("transform", str(photos), recorder=recorder)
    assert code == 2
    assert "large.jpg has 105 MB" in err
    assert recorder.writes == []


def test_the_price_is_said_before_anything_is_sent_and_held_to_the_ceiling(released, photos):
    """Two of ml.g4dn.xlarge, $0.7364 each."""
    recorder = Recorder()
    code, document, err = released("transform", str(photos), "--instances", "2", "--dry-run", recorder=recorder)
    assert code == 0, err
    cost = document["cost"]
    assert (cost["at_most"], cost["hours"]) == (pytest.approx(2 * 0.7364 * 24), 24)
    assert (cost["refused"], cost["ends_after_these_hours"]) == (None, False)

    released.stage.write_text(released.stage.read_text().replace("= 5000", "= 30"))
    code, document, err = released("transform", str(photos), "--instances", "2", recorder=recorder)
    assert code == 2
    assert document["error"] == "Refused"
    assert "this job can cost $35.35 in 24 h by itself, the file allows $30 a month" in err
    assert "--yes-cost" in err
    assert recorder.writes == []

    code, document, err = released("transform", str(photos), "--instances", "2", "--yes-cost", recorder=recorder)
    assert code == 0, err
    assert "costs $1.47 an hour, $35.35 in 24 h: SageMaker transform, 2 × ml.g4dn.xlarge, until its last photo" in err
    assert recorder.writes == ["s3:PutObject", "sagemaker:CreateTransformJob"]


def test_a_machine_of_unknown_price_needs_a_yes(released, photos):
    code, _, err = released("transform", str(photos), "--instance-type", "ml.m7i.large")
    assert code == 2
    assert "the price of SageMaker transform, 1 × ml.m7i.large is not known" in err
    code, _, err = released("transform", str(photos), "--instance-type", "ml.m7i.large", "--yes-cost")
    assert code == 0, err


@pytest.fixture
def going(released, photos):
    """A job that was left alone and still runs: its name in the fake account, whose jobs end at once otherwise."""
    code, document, err = released("transform", str(photos), "--detach")
    assert code == 0, err
    set_state(document["job"], "InProgress")
    return document["job"]


def set_state(job, state):
    sagemaker_backends[DEFAULT_ACCOUNT_ID][REGION].transform_jobs[job].transform_job_status = state


def test_the_same_command_again_watches_the_job_that_still_runs(released, photos, going):
    recorder, released.on_sleep = Recorder(), lambda: set_state(going, "Completed")
    code, document, err = released("transform", str(photos), recorder=recorder)
    assert code == 0, err
    assert (document["job"], document["output"].rpartition("/")[2]) == (going, going)
    assert f"{going} still sends these photos: nothing is started" in err
    assert f"{going}: InProgress" in err
    assert recorder.writes == []
    code, document, err = released("transform", str(photos), "--detach", recorder=recorder)
    assert code == 0, err
    assert recorder.writes == ["sagemaker:CreateTransformJob"]  # that one has ended: these answers are wanted anew


def test_it_tells_of_the_end_it_watched(released, photos, going):
    released.on_sleep = lambda: set_state(going, "Failed")
    code, _, err = released("transform", str(photos))
    assert code == 1
    assert "ended as Failed" in err


def test_a_dry_run_says_that_it_would_watch(released, photos, going):
    code, document, err = released("transform", str(photos), "--dry-run")
    assert code == 0, err
    assert (document["watch"], document["create_transform_job"]) == (going, None)


@pytest.mark.parametrize("change", ["another photo", "a changed photo", "one photo less"])
def test_photos_are_not_exchanged_under_a_job_that_reads_them(released, photos, going, change):
    if change == "another photo":
        (photos / "more.jpg").write_bytes(b"photo")
    elif change == "a changed photo":
        (photos / "small.jpg").write_bytes(b"other")
    else:
        (photos / "small.jpg").rename(photos / "renamed.jpg")
    recorder = Recorder()
    code, _, err = released("transform", str(photos), recorder=recorder)
    assert code == 2
    assert f"{going} still reads s3://" in err
    assert "--name" in err
    assert recorder.writes == []
    code, _, err = released("transform", str(photos), "--name", "others", "--detach", recorder=recorder)
    assert code == 0, err
    assert "sagemaker:CreateTransformJob" in recorder.writes


def test_the_same_photos_through_other_machines_are_another_job(released, photos, going):
    recorder = Recorder()
    code, _, err = released("transform", str(photos), "--instances", "3", "--detach", recorder=recorder)
    assert code == 0, err
    assert recorder.writes == ["sagemaker:CreateTransformJob"]


def test_the_same_photos_through_another_model_are_another_job(released, photos, going):
    will_answer()
    assert released("release", "--image", push(content="b"))[0] == 0
    recorder = Recorder()
    code, _, err = released("transform", str(photos), "--detach", recorder=recorder)
    assert code == 0, err
    assert recorder.writes == ["sagemaker:CreateTransformJob"]
