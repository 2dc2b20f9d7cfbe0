"""`apply`: make reality what the stage's file says. A second run writes nothing; an interrupted one is continued."""

import argparse

from deploy import costs, plan, releases
from deploy.context import Context
from deploy.engine import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    costs.add_ceiling_arguments(parser)


def run(args: argparse.Namespace, context: Context) -> None:
    release = releases.live(context)
    done = plan.carry_out(args, context, release)
    if not context.dry_run:
        context.emit(plan.as_dict(done, release, context), lambda: summary(done))


def summary(done: list[Step]) -> str:
    """One line."""
    changed = sum(step.action != "keep" for step in done)
    return f"{changed} changed, {len(done) - changed} as they were" if changed else f"all {len(done)} as they should be"
