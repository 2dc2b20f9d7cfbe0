"""A multi-model endpoint: every release adds an archive under a name of its own."""

import pytest

from tests.support.aws import client
from tests.support.fleet import BUCKET
from tests.support.released import archive, push, upload

DOGS = {"Bucket": BUCKET, "Key": "models/dogs.tar.gz"}


@pytest.fixture
def many(deploy):
    deploy.stage.write_text(deploy.stage.read_text() + '[endpoint]\nkind = "multi-model"\ninstance_type = "ml.m5.xlarge"\n')
    assert deploy("apply")[0] == 0
    return deploy


def test_a_name_that_another_artifact_has_is_refused_and_its_archive_stays(many):
    """SageMaker keeps what an instance has loaded: the same name would be two models at once."""
    words = ["release", "--image", push(), "--as", "dogs", "--model-data"]
    assert many(*words, upload())[0] == 0
    first = client("s3").get_object(**DOGS)["Body"].read()
    other = upload("b", body=archive((0.1, 0.2, 0.7)))
    code, _, err = many(*words, other)
    assert code == 2
    assert "models/dogs.tar.gz is there already" in err
    assert "try: choose another name" in err
    assert client("s3").get_object(**DOGS)["Body"].read() == first


def test_a_release_that_was_interrupted_after_the_copy_goes_on(many):
    words = ["release", "--image", push(), "--as", "dogs", "--model-data", upload()]
    assert many(*words)[0] == 0
    before = client("s3").head_object(**DOGS)["LastModified"]
    code, _, err = many(*words)
    assert code == 0, err
    assert client("s3").head_object(**DOGS)["LastModified"] == before
