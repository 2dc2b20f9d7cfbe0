"""`plan` and `apply`: what would be done as a table with its price, and doing it."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy import autoscaling, costs, releases, scaling_schedule, stack
from deploy.context import Context
from deploy.engine import Engine, Resource, Step
from deploy.errors import Refused
from deploy.price_file import Prices
from deploy.serving import Release

_LOOK = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red"), "keep": (" ", "dim")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    costs.add_prices_argument(parser)


def run(args: argparse.Namespace, context: Context) -> None:
    show(args, context, releases.live(context))


def show(args: argparse.Namespace, context: Context, release: Release | None) -> list[Step]:
    """Print the plan for `release` and return it. Reads only."""
    engine = stack.engine(context, release)
    plan = engine.plan()
    prices = Prices.read(args.prices)
    refused = _refusal(args, context, engine, plan)
    document = as_dict(plan, release, context) | {"cost": costs.as_dict(context.config, prices), "refused": refused}
    notes = [Text(f"`apply` would refuse: {refused}", style="bold red")] if refused else []
    context.emit(document, lambda: Group(table(plan, release, context), costs.table(context.config, prices), *notes))
    return plan


def _refusal(args: argparse.Namespace, context: Context, engine: Engine, plan: Sequence[Step]) -> str | None:
    """Why `carry_out` would stop before its first write."""
    try:
        check(args, context, engine, plan)
    except Refused as error:
        return str(error)
    return None


def carry_out(
    args: argparse.Namespace,
    context: Context,
    release: Release | None,
    first: Callable[[], None] | None = None,
    proof: Resource | None = None,
) -> list[Step]:
    """Plan, price, check, then `first`, then apply; returns what was done. Raises Refused before the first write."""
    if context.dry_run:
        return show(args, context, release)
    engine = stack.engine(context, release, proof)
    plan = engine.plan()
    check(args, context, engine, plan)
    if first:
        first()
    done = []
    total = len(plan)
    for step in engine.apply():
        done.append(step)
        if step.action != "keep":
            context.say(f"{len(done):>2}/{total} {_mark(step)} {step.key}")
    return done


def check(args: argparse.Namespace, context: Context, engine: Engine, plan: Sequence[Step]) -> None:
    """The price ceiling and the account's limits. Raises Refused."""
    if any(step.action in ("create", "update") for step in plan):
        within_ceiling(args, context, costs.estimate(context.config, Prices.read(args.prices)))
    engine.check(plan)


def within_ceiling(args: argparse.Namespace, context: Context, parts: list[costs.Cost]) -> None:
    """Raises Refused where a month of `parts` can cost more than the stage's file allows, unless --yes-cost was said."""
    if getattr(args, "yes_cost", False):  # `plan` does not have it
        return
    where, allowed = f"stage {context.config.name}", context.config.stage.price_ceiling_per_month
    if unknown := [part for part in parts if part.standing and part.maximum is None]:
        problem = f"the price of {unknown[0].what} is not known, so its cost has no ceiling"
        hint = f"give a price file that has it (--prices FILE, shaped like deploy/prices/*.json), change {unknown[0].setting}"
        raise Refused(where, problem, hint=f"{hint}, or say --yes-cost")
    if (most := costs.ceiling(parts) or 0.0) > allowed:
        part = max((part for part in parts if part.standing), key=lambda part: part.maximum or 0.0)
        share = (part.maximum or 0.0) * costs.HOURS_PER_MONTH
        worst = f"can cost ${most:,.0f} a month, the file allows ${allowed:,.0f}"
        hint = f"change {part.setting} ({part.what}: ${share:,.0f} of it), raise [stage] price_ceiling_per_month"
        raise Refused(where, worst, hint=f"{hint}, or say --yes-cost; `python -m deploy costs` shows the parts")


def as_dict(plan: Sequence[Step], release: Release | None, context: Context) -> dict[str, Any]:
    live = None if release is None else {"image": release.image, "model_data": release.model_data, "cuda": release.cuda}
    document: dict[str, Any] = {"stage": context.config.name, "release": live, "steps": [step.as_dict() for step in plan]}
    if not context.config.scaling.scheduled:
        return document
    action = scaling_schedule.in_force(context.config.scaling.scheduled, context.clock.now())
    return document | {"scheduled": {"by_the_clock": action and action.name, "left_alone": context.config.scaling.possible}}


def table(plan: Sequence[Step], release: Release | None, context: Context) -> RenderableType:
    """One row per resource, with what differs."""
    counts = {action: sum(step.action == action for step in plan) for action in _LOOK}
    summary = ", ".join(f"{count} to {action}" for action, count in counts.items() if count) or "nothing to do"
    result = Table(title=f"Stage {context.config.name}: {summary}", show_edge=False)
    result.add_column("")
    result.add_column("resource", overflow="fold")
    result.add_column("what differs", overflow="fold")
    for step in plan:
        mark, colour = _LOOK[step.action]
        result.add_row(mark, step.key, _differences(step), style=colour)
    notes = [] if release else [Text("No release yet, so no endpoint: `python -m deploy release` makes one.", style="bold")]
    if release and context.config.scaling.profile != "none":
        notes.append(Text(f"Scaling holds {autoscaling.profile(context.config).meaning}."))
    if release and context.config.scaling.scheduled:
        notes.append(Text(scaling_schedule.said(context.config.scaling.scheduled, context.clock.now())))
    return Group(result, *notes)


def _mark(step: Step) -> str:
    mark, colour = _LOOK[step.action]
    return f"[{colour}]{mark}[/]"


def _differences(step: Step) -> str:
    return "\n".join(f"{name}: {' → '.join(_around(str(c.seen), str(c.wanted)))}" for name, c in step.changes.items())


def _around(seen: str, wanted: str, width: int = 60) -> tuple[str, str]:
    """Long texts from a little before the first difference on."""
    if max(len(seen), len(wanted)) <= width:
        return seen, wanted
    same = next((index for index, pair in enumerate(zip(seen, wanted, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - 15)

    def cut(text: str) -> str:
        end = start + width
        return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")

    return cut(seen), cut(wanted)
