"""`transform` through the command line: what is sent to SageMaker."""

import pytest

from tests.support.aws import Recorder

MEGABYTE = 1_000_000


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
    assert document["MaxPayloadInMB"] == payload
    assert recorder.writes == []


def test_a_photo_that_no_job_takes_is_named_before_anything_is_uploaded(released, photos):
    with (photos / "large.jpg").open("wb") as file:
        file.truncate(105 * MEGABYTE)
    recorder = Recorder()
    code, _, err = released("transform", str(photos), recorder=recorder)
    assert code == 2
    assert "large.jpg has 105 MB" in err
    assert recorder.writes == []
