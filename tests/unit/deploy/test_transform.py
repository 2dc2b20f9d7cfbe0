"""What a batch transform cannot be."""

import argparse

import pytest

from deploy import transform
from deploy.errors import Refused
from tests.support import aws as fake


def test_a_multi_model_endpoint_has_no_batch_transform():
    context = fake.context(fake.stage(endpoint={"kind": "multi-model", "instance_type": "ml.m5.xlarge"}))
    with pytest.raises(Refused, match="no batch transform"):
        transform.transform_job(argparse.Namespace(), context, "job", "transform/in/dogs", {})


def test_what_a_finder_or_an_editor_hid_is_no_photo(tmp_path):
    for name in ("a.jpg", "deep/b.PNG", "._a.jpg", ".thumbnails/a.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert transform.photos(tmp_path) == {"a.jpg": tmp_path / "a.jpg", "deep/b.PNG": tmp_path / "deep/b.PNG"}
