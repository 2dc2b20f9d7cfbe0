"""What a batch transform cannot be."""

import argparse

import pytest

from deploy import transform
from deploy.errors import Refused
from tests.support import aws as fake


def test_a_multi_model_endpoint_has_no_batch_transform():
    context = fake.context(fake.stage(endpoint={"kind": "multi-model", "instance_type": "ml.m5.xlarge"}))
    with pytest.raises(Refused, match="no batch transform"):
        transform.transform_job(argparse.Namespace(), context, "job", "transform/in/dogs", "image/jpeg")
