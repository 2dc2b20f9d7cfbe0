"""A stage's KMS key, and the one it had before: what was encrypted with it must stay readable."""

import pytest

from deploy import deployer_policies, iam, stack
from deploy.errors import Refused
from tests.support.applied import apply, writes_of
from tests.support.aws import context, release, stage
from tests.support.iam_need import Need, granted

OLD = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
NEW = "arn:aws:kms:eu-west-1:123456789012:key/99999999-2222-3333-4444-555555555555"
VIA_S3 = {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}


def check(config) -> None:
    engine = stack.engine(context(config), release())
    engine.check(engine.plan())


@pytest.mark.parametrize("now", [{"kms_key_arn": NEW}, {}], ids=["changed", "removed"])
def test_a_key_that_is_dropped_in_silence_is_refused_before_the_first_write(aws, now):
    """The live model's archive is encrypted with it: the next instance that scaling starts could not read it."""
    apply(stage(security={"kms_key_arn": OLD}))
    with pytest.raises(Refused, match=f"encrypted with {OLD}.*\n.*earlier_kms_key_arns"):
        check(stage(security=now))
    listed = stage(security=now | {"earlier_kms_key_arns": [OLD]})
    check(listed)
    apply(listed)
    assert writes_of(apply, listed) == []
    check(stage(security=now))  # taking it off the list is said in so many words


def test_a_stage_without_a_key_may_get_one(aws):
    apply(stage())
    check(stage(security={"kms_key_arn": NEW}))


def test_a_repository_that_is_encrypted_otherwise_is_seen_and_left(aws):
    """ECR cannot change it, and deleting it would take the image of the live release."""
    apply(stage())
    wanted = stage(security={"kms_key_arn": NEW})
    ctx, key = context(wanted), "repository/kennel/dev/serve"
    (step,) = [step for step in stack.engine(ctx, release()).plan() if step.key == key]
    assert step.changes["encryption"].seen == {"encryptionType": "AES256"}
    assert not any(name.startswith("ecr:") for name in writes_of(apply, wanted))
    list(stack.engine(ctx, release()).apply())
    assert f"{key} stays encrypted as it was made" in ctx.console.text.replace("\n", " ")


@pytest.mark.parametrize("principal", iam.PRINCIPALS)
def test_every_role_still_reads_what_the_earlier_key_encrypted(principal):
    scope = iam.Scope.of(context().names_in("123456789012"), stage(security={"earlier_kms_key_arns": [OLD]}))
    for documents in ([iam.role_policy(scope, principal)], [iam.boundary(scope)]):
        assert granted(documents, Need("kms:Decrypt", OLD, VIA_S3))
        assert not granted(documents, Need("kms:Decrypt", NEW, VIA_S3))


@pytest.mark.parametrize("duty", ["watch", "data", "release", "ec2"])  # training reads and writes no object
def test_so_do_those_who_deploy(duty):
    both = {"kms_key_arn": NEW, "earlier_kms_key_arns": [OLD]}
    scope = iam.Scope.of(context().names_in("123456789012"), stage(security=both))
    for key in (OLD, NEW):
        assert granted([deployer_policies.deployer(scope, duty)], Need("kms:Decrypt", key, VIA_S3))


def test_whoever_only_watches_writes_nothing_with_the_key():
    scope = iam.Scope.of(context().names_in("123456789012"), stage(security={"kms_key_arn": NEW}))
    watch = [deployer_policies.deployer(scope, "watch")]
    assert not granted(watch, Need("kms:GenerateDataKey", NEW, VIA_S3))
    assert not granted(watch, Need("kms:Decrypt", NEW, {"kms:ViaService": "ec2.eu-west-1.amazonaws.com"}))
