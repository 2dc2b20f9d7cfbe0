"""What every command is given: AWS clients, who and where we are, a clock, a screen. Tests pass their own session and clock."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from rich.console import Console

from deploy import failure
from deploy.config import StageConfig
from deploy.errors import DeployError, Refused, TimedOut, explained
from deploy.names import Names, dns_suffix_of, partition_of
from deploy.whole_answers import insist

_NOT_YET = (
    "assume role", "assume iam role", "assumed by", "sts:assumerole",  # SageMaker, Application Auto Scaling, Lambda
    "does not grant ecr:", "invalid for creategrant",  # SageMaker, Lambda
    "invalid iam instance profile", "no associated iam roles",  # EC2
    "(nosuchentity)", "not attachable",  # IAM, of what it made itself
    "(nosuchbucket)", "(operationaborted)",  # S3
    "could not find",  # SageMaker, whose API reference says so of CreateEndpointConfig and CreateEndpoint
    "(objectnotfoundexception)", "(failedresourceaccessexception)",  # Application Auto Scaling
)  # fmt: skip
"""What AWS answers, in small letters, while what was made a moment ago has not spread. The Terraform provider waits for the
same (internal/service/{lambda,ec2,iam,s3,appautoscaling}), up to two minutes.
"""
_RETRIES = Config(retries={"mode": "standard", "total_max_attempts": 6}, connect_timeout=5, read_timeout=60)


class Clock:
    """Time, replaceable."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> datetime:
        return datetime.now(UTC)


def duration(seconds: float) -> str:
    """`3 min 05 s`."""
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


class Context:
    """`console` is for people (stderr: progress, waits); results go to stdout through `emit` or `out`."""

    def __init__(
        self,
        config: StageConfig,
        *,
        session: boto3.Session | None = None,
        clock: Clock | None = None,
        console: Console | None = None,
        out: Console | None = None,
        as_json: bool = False,
        dry_run: bool = False,
    ) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.console = console or Console(stderr=True, highlight=False)
        self.out = out or Console(highlight=False)
        self.as_json = as_json
        self.dry_run = dry_run
        self._session = session
        self._clients: dict[str, Any] = {}

    @cached_property
    def session(self) -> boto3.Session:
        with explained("credentials"):
            return self._session or boto3.Session(region_name=self.region)

    @property
    def region(self) -> str:
        return self.config.stage.region

    @cached_property
    def partition(self) -> str:
        return partition_of(self.region)

    @cached_property
    def account(self) -> str:
        """Asks STS once, before any other call. Raises Refused for credentials that AWS does not take, and when the stage's
        file names another account.
        """
        with explained("credentials", first=True):
            account = str(self.client("sts").get_caller_identity()["Account"])
        if self.config.stage.account not in (None, account):
            raise Refused(
                f"stage {self.config.name}",
                f"these credentials belong to account {account}, the stage's file says {self.config.stage.account}",
                hint="set AWS_PROFILE to the right account",
            )
        return account

    @cached_property
    def names(self) -> Names:
        return self.names_in(self.account)

    def names_in(self, account: str) -> Names:
        """The names as they would be in `account`: for commands that only print."""
        stage = self.config.stage
        return Names(
            project=stage.project,
            stage=self.config.name,
            account=account,
            region=self.region,
            partition=self.partition,
            dns_suffix=dns_suffix_of(self.partition),
        )

    @property
    def tags(self) -> dict[str, str]:
        return self.names.tags | ({"owner": self.config.stage.owner} if self.config.stage.owner else {})

    def client(self, service: str) -> Any:
        """A boto3 client, made once."""
        if service not in self._clients:
            with explained("credentials", first="account" not in vars(self)):
                client = self.session.client(service, region_name=self.region, config=_RETRIES)
                insist(client)
                self._clients[service] = client
        return self._clients[service]

    def emit(self, data: Any, render: Callable[[], Any]) -> None:
        """With --json, `data` as one JSON document on stdout; otherwise what `render` returns, for people."""
        if self.as_json:
            failure.write(data)
        else:
            self.out.print(render())

    def say(self, message: str) -> None:
        """A line for people, kept out of stdout."""
        self.console.print(message)

    def patiently(self, what: str, call: Callable[[], Any], *, limit_seconds: float = 120.0) -> Any:
        """Call again while AWS does not know yet what was made a moment ago (IAM above all is eventually consistent)."""
        started, told = self.clock.monotonic(), ""
        while True:
            try:
                return call()
            except ClientError as error:
                text = str(error).lower()
                if not any(words in text for words in _NOT_YET) or self.clock.monotonic() - started > limit_seconds:
                    raise
                if (reason := str(error.response["Error"].get("Message", ""))) != told:
                    self.say(f"waiting for {what} to be usable: {reason}")
                told = reason
                self.clock.sleep(3)

    def wait(
        self,
        what: str,
        poll: Callable[[], str],
        *,
        until: set[str],
        failed: dict[str, str] | None = None,
        limit_seconds: float,
        every_seconds: float = 10.0,
    ) -> str:
        """Poll until the state is in `until` and return it. Shows the state and the time since the start; without a terminal
        as a line, when the state changes and once a minute.

        A state in `failed` raises DeployError with that hint; the limit raises TimedOut.
        """
        started, told = self.clock.monotonic(), ("", 0.0)
        with self.console.status(f"{what} …") as status:
            while (state := poll()) not in until:
                elapsed = self.clock.monotonic() - started
                if failed and state in failed:
                    raise DeployError(what, f"ended as {state} after {elapsed:.0f} s", hint=failed[state])
                if elapsed > limit_seconds:
                    hint = "run the same command again to go on waiting; `status` shows the state"
                    raise TimedOut(what, f"still {state} after {elapsed:.0f} s", hint=hint)
                line = f"{what}: {state}, {duration(elapsed)} of {limit_seconds / 60:.0f} min"
                status.update(line)
                if not self.console.is_terminal and (state != told[0] or elapsed - told[1] >= 60):
                    told = (state, elapsed)
                    self.say(line)
                self.clock.sleep(every_seconds)
        return state
