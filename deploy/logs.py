"""`logs`: the log streams of a job, the endpoint, the Lambda or an instance, from CloudWatch, as they come."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from deploy import failure
from deploy.context import Context
from deploy.engine import found
from deploy.errors import Refused, explained

TRAINING_GROUP = "/aws/sagemaker/TrainingJobs"
TRANSFORM_GROUP = "/aws/sagemaker/TransformJobs"


@dataclass(frozen=True, kw_only=True)
class Line:
    """`stream` without its prefix: which host or instance wrote it. `at` is in milliseconds since 1970."""

    stream: str
    at: int
    text: str

    @property
    def fields(self) -> dict[str, Any]:
        """The line as our programs write it; empty where it is not one of theirs."""
        if not self.text.startswith("{"):
            return {}
        try:
            return dict(json.loads(self.text))
        except json.JSONDecodeError:
            return {}


class Tail:
    """New lines of all streams of `group` that begin with `prefix`, each once. A group that does not exist yet is empty."""

    def __init__(self, context: Context, group: str, prefix: str = "", *, minutes: float | None = None) -> None:
        """`minutes`: nothing older."""
        self._logs = context.client("logs")
        self._group, self._prefix = group, prefix
        start = minutes and int((context.clock.now().timestamp() - minutes * 60) * 1000)
        self._since = {"startTime": start} if start else {}
        self._tokens: dict[str, str] = {}

    def new_lines(self) -> list[Line]:
        """In order of time. Raises DeployError when CloudWatch refuses."""
        with explained(f"log group {self._group}"):
            lines = [line for stream in self._streams() for line in self._read(stream)]
        return sorted(lines, key=lambda line: line.at)

    def _streams(self) -> list[str]:
        """All streams with the prefix: a job has one per host. Without one, the 50 newest of the endpoint or the function."""
        if not self._prefix:
            answer = found(self._logs.describe_log_streams, logGroupName=self._group, orderBy="LastEventTime", descending=True)
            return [row["logStreamName"] for row in answer["logStreams"]] if answer else []
        pages = self._logs.get_paginator("describe_log_streams").paginate(
            logGroupName=self._group, logStreamNamePrefix=self._prefix
        )
        return found(lambda: [row["logStreamName"] for page in pages for row in page["logStreams"]]) or []

    def _read(self, stream: str) -> Iterator[Line]:
        """CloudWatch answers the same token again when there is nothing more."""
        while True:
            token = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            answer = self._logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **token, **self._since
            )
            for event in answer["events"]:
                yield Line(stream=stream.removeprefix(self._prefix).lstrip("/"), at=event["timestamp"], text=event["message"])
            after = answer.get("nextForwardToken")
            if after is None or after == self._tokens.get(stream):
                return
            self._tokens[stream] = after


def readable(line: Line) -> str:
    """One line for people: time, host, level where it matters, event, fields."""
    moment = datetime.fromtimestamp(line.at / 1000, UTC).strftime("%H:%M:%S")
    fields = dict(line.fields)
    if not fields:
        return f"{moment} {line.stream} {line.text.rstrip()}"
    event, level = fields.pop("event", ""), fields.pop("level", "INFO")
    for known in ("time", "logger"):
        fields.pop(known, None)
    rest = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
    return f"{moment} {line.stream} {'' if level == 'INFO' else level + ' '}{event} {rest}".rstrip()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="endpoint, lambda, ec2 RUN, transform JOB, or the name of a training job", nargs="+")
    parser.add_argument("--minutes", type=float, help="nothing older (60 for the endpoint and the Lambda, else everything)")
    parser.add_argument("--follow", action="store_true", help="go on until Ctrl-C")


def run(args: argparse.Namespace, context: Context) -> None:
    """Raises Refused where there is no such log."""
    group, prefix = _where(args.what, context)
    tail = Tail(context, group, prefix, minutes=args.minutes or (None if prefix else 60.0))
    while True:
        lines = tail.new_lines()
        if not lines and not args.follow:
            context.say(
                f"no lines in {group} {prefix}".rstrip() + ("" if prefix else f" of the last {args.minutes or 60:g} minutes")
            )
        for line in lines:
            if context.as_json:
                failure.write(asdict(line), a_line=True)
            else:
                context.out.print(readable(line), markup=False, emoji=False, soft_wrap=True)
        if not args.follow:
            return
        context.clock.sleep(5.0)


def _where(what: list[str], context: Context) -> tuple[str, str]:
    names = context.names
    if what == ["endpoint"]:
        return names.endpoint_log_group, ""
    if what == ["lambda"]:
        return names.function_log_group, ""
    if what[0] == "ec2" and len(what) == 2:
        return names.ec2_log_group, f"{what[1]}/"
    if what[0] == "transform" and len(what) == 2:
        return TRANSFORM_GROUP, f"{what[1]}/"
    if len(what) == 1:
        return TRAINING_GROUP, f"{what[0]}/"
    raise Refused(
        "logs", f"{' '.join(what)}: no such log", hint="endpoint, lambda, ec2 RUN, transform JOB, or a training job's name"
    )
