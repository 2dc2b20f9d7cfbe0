"""AWS's other partitions (China, GovCloud): names and documents."""

import json
import re
from pathlib import Path

import pytest

from deploy import __main__ as program
from deploy import iam, policies
from tests.support.aws import context, stage


@pytest.mark.parametrize(
    ("region", "partition", "suffix"),
    [("cn-north-1", "aws-cn", "amazonaws.com.cn"), ("us-gov-west-1", "aws-us-gov", "amazonaws.com")],
)
def test_other_partitions(region, partition, suffix):
    names = context(stage(stage={"region": region})).names_in("123456789012")
    assert names.registry == f"123456789012.dkr.ecr.{region}.{suffix}"
    assert names.service("sagemaker") == "sagemaker.amazonaws.com"
    text = json.dumps(policies.every_document(iam.Scope.of(names, stage(stage={"region": region}))))
    assert set(re.findall(r"arn:([a-z-]+):", text)) == {partition}


def test_no_partition_is_written_by_hand():
    sources = [path for path in Path(program.__file__).parent.rglob("*.py") if path.name != "training_local.py"]
    for path in sources:  # local mode needs some role's name and asks no AWS about it
        assert not re.search(r"arn:aws:", path.read_text(encoding="utf-8")), f"{path}: use Names.arn"
