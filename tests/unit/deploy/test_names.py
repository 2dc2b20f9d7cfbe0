"""Names are a pure function of what they name, and fit AWS's limits at their longest."""

import re

from hypothesis import given
from hypothesis import strategies as st

from deploy.names import Names, content_id, dns_suffix_of, partition_of

LONGEST = Names(project="p" * 20, stage="s" * 10, account="123456789012", region="ap-southeast-1")


def test_the_longest_names_fit():
    assert len(LONGEST.bucket) <= 63
    assert len(LONGEST.content_name({})) <= 63
    assert len(LONGEST.function) <= 64
    assert all(len(LONGEST.role(principal)) <= 64 for principal in ("train", "serve", "lambda", "ec2"))
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", LONGEST.content_name({}))


def test_partitions():
    assert [partition_of(region) for region in ("eu-west-1", "cn-north-1", "us-gov-west-1")] == ["aws", "aws-cn", "aws-us-gov"]
    assert partition_of("eu-nowhere-9") == "aws"
    assert [dns_suffix_of(name) for name in ("aws", "aws-cn", "aws-us-gov")] == [
        "amazonaws.com", "amazonaws.com.cn", "amazonaws.com",
    ]  # fmt: skip


def test_arns_leave_out_what_a_service_leaves_out():
    names = Names(project="kennel", stage="dev", account="123456789012", region="cn-north-1", partition="aws-cn")
    assert names.role_arn("train") == "arn:aws-cn:iam::123456789012:role/kennel-dev-train"
    assert names.s3_arn("data/*") == "arn:aws-cn:s3:::kennel-dev-123456789012-cn-north-1/data/*"
    assert names.arn("sagemaker", "endpoint/x") == "arn:aws-cn:sagemaker:cn-north-1:123456789012:endpoint/x"


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_a_content_id_depends_on_content_and_not_on_order(document):
    assert content_id(document) == content_id(dict(reversed(document.items())))
    assert content_id(document) != content_id(document | {"another key": 1})
