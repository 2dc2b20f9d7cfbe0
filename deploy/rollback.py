"""`rollback`: the endpoint goes back to a configuration that still exists, behind the same alarms as a release."""

import argparse
from dataclasses import dataclass
from typing import Any

from deploy import releases, stack
from deploy.context import Context
from deploy.endpoint import Endpoint
from deploy.engine import Engine, Resource, Step, found
from deploy.errors import DeployError, explained


@dataclass(frozen=True)
class Existing:
    """An endpoint configuration as AWS describes it."""

    name: str
    request: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="CONFIG", help="which one (default: the newest other that has served); `status` lists them"
    )


def run(args: argparse.Namespace, context: Context) -> None:
    target = choose(context, args.to)
    if not context.dry_run:
        move(context, target)
    did = "would go back to" if context.dry_run else "is back on"
    document = {"endpoint": context.names.endpoint, "config": target, "dry_run": context.dry_run}
    context.emit(document, lambda: f"endpoint {context.names.endpoint} {did} {target}; `apply` and `release` start from it")


def choose(context: Context, wanted: str | None) -> str:
    """The newest that served before, or `wanted`. Raises DeployError naming what there is."""
    where = f"endpoint {context.names.endpoint}"
    with explained(where):
        live = releases.live_config(context)
        others = [past for past in releases.past(context) if past.config != live]
    if live is None:
        raise DeployError(where, "does not exist", hint="`python -m deploy release`")
    served = [past.config for past in others if past.outcome == releases.SERVED]
    if wanted is None and served:
        return served[0]
    if wanted in [past.config for past in others]:
        return str(wanted)
    there = ", ".join(f"{past.config} ({past.outcome or 'never served'})" for past in others) or "none"
    hint = "`python -m deploy release --job JOB` (or --model-data s3://…) makes an earlier artifact a release again"
    if others:
        hint = f"--to CONFIG goes to any of them, served or not; {hint}"
    problem = f"cannot go back to {wanted or 'an earlier release'}: there is {there} besides the live {live}"
    raise DeployError(where, problem, hint=hint)


def move(context: Context, target: str) -> list[Step]:
    """Also registers scaling again where a change of instance type had to take it off."""
    with explained(f"endpoint-config/{target}"):
        described = found(context.client("sagemaker").describe_endpoint_config, EndpointConfigName=target)
    if described is None:
        raise DeployError(
            f"endpoint-config/{target}", "does not exist any more", hint="`python -m deploy status` lists those that do"
        )
    resources: list[Resource] = [Endpoint(context, Existing(target, described))]
    if context.config.scaling.profile != "none" and "InstanceType" in described["ProductionVariants"][0]:
        resources += stack.scaling(context)
    return list(Engine(resources).apply())
