"""The bucket: whose it is, and what it does with what is deleted."""

import boto3
import pytest

from deploy import data
from deploy.errors import Refused
from tests.support.applied import apply, destroy, plan
from tests.support.aws import ACCOUNT, REGION, Recorder, client, context

NAME = "kennel-dev-123456789012-eu-west-1"


def test_every_call_about_the_bucket_says_whose_it_must_be(aws, tmp_path):
    """Somebody else may have taken its name, which can be guessed, before us."""
    recorder = Recorder()
    apply(recorder=recorder)
    for name in ("train/pug/a.jpg", "train/hound/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"photo")
    files, ignored = data.photos(tmp_path)
    ctx = context(recorder=recorder)
    for _ in range(2):
        data.upload(ctx, files, "data/dogs", delete=True, ignored=ignored)
        files.pop("train/hound/b.jpg", None)
    data.channels_in(ctx, "dogs")
    destroy(recorder=recorder)
    calls = [call for call in recorder.calls if call.service == "s3" and call.operation != "CreateBucket"]
    assert {"PutObject", "HeadObject", "DeleteObjects", "ListObjectsV2", "PutBucketPolicy", "DeleteBucket"} <= {
        call.operation for call in calls
    }
    assert [str(call) for call in calls if call.parameters.get("ExpectedBucketOwner") != ACCOUNT] == []


def somebody_else():
    """An S3 client of another account."""
    role = "arn:aws:iam::999999999999:role/them"
    keys = client("sts").assume_role(RoleArn=role, RoleSessionName="them")["Credentials"]
    return boto3.client(
        "s3",
        region_name=REGION,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )


def test_a_bucket_of_another_account_is_refused_and_nothing_is_written(aws):
    somebody_else().create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": REGION})
    recorder = Recorder()
    with pytest.raises(Refused, match="belongs to another account than 123456789012"):
        plan(recorder=recorder)
    assert recorder.writes == []


def test_what_was_overwritten_or_deleted_goes_in_the_end(aws):
    """Checkpoints are overwritten every epoch: versions of a month would be most of the bucket."""
    apply()
    rules = {row["ID"]: row for row in client("s3").get_bucket_lifecycle_configuration(Bucket=NAME)["Rules"]}
    assert rules["checkpoints"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert rules["tidy"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rules["tidy"]["Expiration"] == {"ExpiredObjectDeleteMarker": True}
