"""`destroy`: everything of the stage in reverse order, then proof that nothing is left. Data only with --delete-data."""

import argparse

from deploy import stack
from deploy.context import Context
from deploy.engine import Removal
from deploy.errors import DeployError, Refused, TimedOut, explained
from deploy.storage import Bucket

# Jobs stay in AWS's lists for ever, ended instances and what came with them for an hour.
_LISTED_ON = (
    ":training-job/", ":hyper-parameter-tuning-job/", ":transform-job/", ":instance/", ":volume/", ":spot-instances-request/",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete-data", action="store_true", help="the bucket too, with every object and version")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace, context: Context) -> None:
    removal = stack.removal(context, delete_data=args.delete_data)
    there = removal.plan()
    kept = [] if args.delete_data else Removal([Bucket(context)]).plan()
    if context.dry_run:
        planned = {"stage": context.config.name, "would_delete": there, "kept": kept}
        context.emit(planned, lambda: _list("would delete", there, kept))
        return
    if there and not args.yes:
        _ask(context, there, kept)
    done = []
    for key in removal.destroy():
        done.append(key)
        context.say(f"[red]-[/] {key}")
    prove(context, removal, delete_data=args.delete_data)
    ended = {"stage": context.config.name, "deleted": done, "left": [], "kept": kept}
    context.emit(ended, lambda: _list("deleted", done, kept))


def prove(context: Context, removal: Removal, *, delete_data: bool) -> None:
    """Raises DeployError naming whatever a describe call or, after five minutes, the tags still find."""
    if left := removal.plan():
        raise DeployError(f"stage {context.config.name}", f"still there: {', '.join(left)}", hint="run destroy again")
    what = "the tags to find nothing"  # AWS's index of tags is some minutes behind
    try:
        context.wait(
            what,
            lambda: "some" if tagged(context, keep_bucket=not delete_data) else "none",
            until={"none"},
            limit_seconds=300,
        )
    except TimedOut:
        found = ", ".join(tagged(context, keep_bucket=not delete_data))
        hint = "what carries the tags and was not made by deploy must be deleted by hand"
        raise DeployError(f"stage {context.config.name}", f"its tags still find {found}", hint=hint) from None


def tagged(context: Context, *, keep_bucket: bool) -> list[str]:
    """ARNs that carry the stage's tags, besides the bucket that stays and what has ended but is listed on."""
    filters = [{"Key": key, "Values": [value]} for key, value in context.names.tags.items()]
    with explained("tags"):
        pages = context.client("resourcegroupstaggingapi").get_paginator("get_resources").paginate(TagFilters=filters)
        arns = [str(row["ResourceARN"]) for page in pages for row in page["ResourceTagMappingList"]]
    bucket = context.names.s3_arn() if keep_bucket else ""
    return [arn for arn in arns if arn != bucket and not any(kind in arn for kind in _LISTED_ON)]


def _ask(context: Context, there: list[str], kept: list[str]) -> None:
    if context.as_json or not context.console.is_terminal:
        raise Refused(f"stage {context.config.name}", f"{len(there)} things would be deleted", hint="say --yes")
    context.say(_list("will be deleted", there, kept))
    if context.console.input(f"Type the stage's name ({context.config.name}) to go on: ") != context.config.name:
        raise Refused(
            f"stage {context.config.name}", "not confirmed, nothing was deleted", hint="type the stage's name, or say --yes"
        )


def _list(title: str, keys: list[str], kept: list[str]) -> str:
    stay = [f"stays, with what it holds and costs: {key} (--delete-data takes it, too)" for key in kept]
    return "\n".join([f"{title}: {len(keys)}", *(f"  {key}" for key in keys), *stay])
