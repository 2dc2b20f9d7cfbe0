"""The permissions boundary of a stage that stands: turned off, destroyed, or the organisation's own."""

import json

from deploy import iam, stack
from tests.support.applied import apply, writes_of
from tests.support.aws import client, context, everything, stage


def test_a_boundary_that_is_turned_off_goes_once_no_role_carries_it(aws):
    apply()
    off = stage(security={"boundary": False})
    written = [name for name in writes_of(apply, off) if name.startswith("iam:")]
    assert written == ["iam:DeleteRolePermissionsBoundary"] * len(iam.PRINCIPALS) + ["iam:DeletePolicy"]
    assert everything()["policies"] == []
    assert writes_of(apply, off) == []


def test_destroy_finds_a_boundary_of_an_earlier_file(aws):
    apply()
    off = context(stage(security={"boundary": False}))
    keys = list(stack.removal(off, delete_data=True).destroy())
    assert keys[-1] == "boundary/kennel-dev-boundary"
    assert not any(everything().values())


def test_the_organisations_own_boundary_is_never_deleted(aws):
    """Not even where it has the name that ours would have."""
    document = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
    arn = client("iam").create_policy(PolicyName="kennel-dev-boundary", PolicyDocument=document)["Policy"]["Arn"]
    given = stage(security={"boundary_arn": arn})
    apply(given)
    assert client("iam").get_role(RoleName="kennel-dev-serve")["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == arn
    list(stack.removal(context(given), delete_data=True).destroy())
    assert everything()["policies"] == ["kennel-dev-boundary"]
