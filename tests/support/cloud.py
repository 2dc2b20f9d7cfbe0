"""A stage in moto's fake account, with a clock that does not wait."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import boto3
from moto import mock_aws
from rich.console import Console

from deploy.config import load
from deploy.context import Clock, Context

REGION = "eu-west-1"
FAKE = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class FakeClock(Clock):
    """Sleeping moves it. `on_sleep` is called each time: what happens in the cloud meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep = lambda: None

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep()

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 15, 0, tzinfo=UTC) + timedelta(seconds=self.seconds)


class Screen(Console):
    """Keeps what people would read."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=160, highlight=False, force_terminal=False)

    @property
    def text(self) -> str:
        return self.file.getvalue()


def context_for(*, dry_run: bool = False, as_json: bool = False, **tables: dict) -> Context:
    """Of stage `dev` with these tables of its file."""
    config = load("dev", {"stage": {"region": REGION}, **tables}, where="test")
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
    return Context(config, session=session, clock=FakeClock(), console=Screen(), out=Screen(), dry_run=dry_run, as_json=as_json)


@contextmanager
def fake_account() -> Iterator[None]:
    """moto in this process, empty; credentials that are nobody's."""
    before = {name: os.environ.get(name) for name in FAKE}
    os.environ.update(FAKE)
    try:
        with mock_aws():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_bucket(context: Context) -> str:
    """The stage's bucket, bare: with its TLS-only policy moto would refuse every upload (it ignores conditions)."""
    where = {"LocationConstraint": REGION}
    context.client("s3").create_bucket(Bucket=context.names.bucket, CreateBucketConfiguration=where)
    return context.names.bucket
