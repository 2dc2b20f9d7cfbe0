"""What moto 5.2.5 lacks of AWS and deploy needs, and refusals that AWS makes and moto does not.

`install()` is called once, before clients are used. Each addition copies AWS's documented or reported behaviour; none was
checked against an account. tests/aws/test_moto_extension.py fails when moto itself grows one of them: then it goes here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from moto import mock_aws

from tests.support import moto_ec2, moto_lambda, moto_quotas, moto_sagemaker, moto_small, moto_young

POLLS = moto_sagemaker.POLLS
FAIL = moto_sagemaker.FAIL
LAYERS = moto_small.LAYERS
ACCOUNT = moto_lambda.ACCOUNT
COLD = moto_lambda.COLD
BROKEN = moto_lambda.BROKEN
QUOTAS = moto_quotas.APPLIED
DISKS = moto_ec2.DISKS
YOUNG = moto_young.YOUNG
_installed = False


def install() -> None:
    global _installed
    if not _installed:
        moto_sagemaker.install()
        moto_lambda.install()
        moto_small.install()
        moto_ec2.install()
        moto_quotas.install()
        _installed = True


def reset() -> None:
    """Between tests."""
    FAIL.clear()
    COLD.clear()
    BROKEN.clear()
    LAYERS.clear()
    QUOTAS.clear()
    DISKS.clear()
    YOUNG.clear()
    moto_quotas.DEFAULT.clear()
    ACCOUNT.update(moto_lambda.ORDINARY_ACCOUNT)


@contextmanager
def account() -> Iterator[None]:
    """An empty account. Lambda code is not run (no Docker); account-wide defaults are ordinary."""
    install()
    reset()
    with mock_aws(config={"lambda": {"use_docker": False}, "iam": {"load_aws_managed_policies": False}}):
        yield
