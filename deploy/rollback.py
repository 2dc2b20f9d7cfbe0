"""`rollback`: the endpoint goes back to a configuration that still exists.

To one that has served it goes at once and unguarded: the alarms of a release measure the fleet that is to be left, and would
send the endpoint back to it. To any other it goes as a release does.

Run again after an interruption it goes on to the same one: what it is about to leave has been marked before.
"""

import argparse
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deploy import releases, stack
from deploy.context import Context
from deploy.endpoint import Endpoint
from deploy.engine import Engine, Step, found
from deploy.errors import DeployError, TimedOut, explained


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
    """What an earlier run was moving to, the newest that served, or `wanted`. Raises DeployError naming what there is."""
    where = f"endpoint {context.names.endpoint}"
    with explained(where):
        endpoint = releases.described(context)
        past_ones = releases.past(context)
    if endpoint is None:
        raise DeployError(where, "does not exist", hint="`python -m deploy release`")
    pending = releases.moving_to(endpoint)
    live = pending or str(endpoint["EndpointConfigName"])
    others = [past for past in past_ones if past.config != live]
    known = {past.config: past.outcome for past in past_ones}
    back_already = known.get(pending or "") == releases.SERVED or releases.leaving(live) in known.values()
    if wanted is None and back_already:  # on its way, or there since an earlier run was interrupted
        return live
    served = [past.config for past in others if past.outcome == releases.SERVED]
    if wanted is None and served:
        return served[0]
    if wanted in known:
        return str(wanted)
    there = ", ".join(f"{past.config} ({past.outcome or 'never served'})" for past in others) or "none"
    hint = "`python -m deploy release --job JOB` (or --model-data s3://…) makes an earlier artifact a release again"
    if others:
        hint = f"--to CONFIG goes to any of them, served or not; {hint}"
    problem = f"cannot go back to {wanted or 'an earlier release'}: there is {there} besides the live {live}"
    raise DeployError(where, problem, hint=hint)


def move(context: Context, target: str) -> list[Step]:
    """Also registers scaling again where a change of instance type had to take it off."""
    where = f"endpoint-config/{target}"
    with explained(where):
        described = found(context.client("sagemaker").describe_endpoint_config, EndpointConfigName=target)
    if described is None:
        raise DeployError(where, "does not exist any more", hint="`python -m deploy status` lists those that do")
    scaled = context.config.scaling.profile != "none" and "InstanceType" in described["ProductionVariants"][0]
    scaling = stack.scaling(context) if scaled else []
    with explained(where):
        guarded = releases.outcome(context, target) != releases.SERVED
        left = _leave(context, target)
    endpoint = Endpoint(context, Existing(target, described), guarded=guarded, scaling=scaling)
    try:
        steps = list(Engine([endpoint, *scaling]).apply())
    except TimedOut:
        raise  # SageMaker goes on
    except DeployError:
        _stay(context, target, left.outcome if left else releases.SERVED)
        raise
    with explained(where):
        wrong = left is not None and left.outcome == releases.WRONG
        for past in releases.past(context):
            if past.outcome == releases.leaving(target):
                releases.mark(context, past.config, releases.WRONG if wrong else releases.LEFT)
    return steps


def _leave(context: Context, target: str) -> releases.Past | None:
    """Marks what the endpoint has, or is moving to, as about to be left; returns it as it was. None: it is not one of ours."""
    live = releases.live_config(context)
    left = next((past for past in releases.past(context) if past.config == live != target), None)
    if left:
        releases.mark(context, left.config, releases.leaving(target))
    return left


def _stay(context: Context, target: str, outcome: str) -> None:
    """What was to be left for `target` serves on. Where AWS cannot say so, the mark stays: the next run knows by it."""
    with suppress(DeployError), explained("endpoint"):
        live = releases.live_config(context)
        if live and releases.outcome(context, live) == releases.leaving(target):
            releases.mark(context, live, outcome)
