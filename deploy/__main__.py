"""`python -m deploy COMMAND [--stage dev] …`.

Each command is a module with `add_arguments(parser)` and `run(args, context)`, which may return an exit code.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from containers.core.errors import Error

# command → (module, what it does). A module is imported only when its command runs.
COMMANDS: dict[str, tuple[str, str]] = {
    "images": ("deploy.images", "build, push, and resolve digests"),
    "data": ("deploy.data", "upload a folder of labelled photos; only what changed"),
    "train": ("deploy.training", "one training job: on SageMaker, on EC2, or on this machine's Docker"),
    "tune": ("deploy.tuning", "search hyperparameters on SageMaker, judged by our metrics"),
    "loadtest": ("deploy.loadtest", "measure a running server and propose scaling settings"),
    "simulate": ("deploy.simulate", "what the scaling policy would do under a course of traffic"),
    "logs": ("deploy.logs", "of a training job, the endpoint or the Lambda"),
    "plan": ("deploy.plan", "what apply would create, change and keep, and what it costs"),
    "apply": ("deploy.apply", "make AWS what the stage's file says"),
    "status": ("deploy.status", "what stands, what serves, what it can go back to, which alarms ring"),
    "release": ("deploy.release", "make a trained artifact the endpoint"),
    "rollback": ("deploy.rollback", "go back to an earlier release"),
    "transform": ("deploy.transform", "a folder of photos through the live model, as a batch job"),
    "smoke": ("deploy.smoke", "the golden photo through endpoint and function"),
    "destroy": ("deploy.destroy", "delete the stage and prove that nothing is left"),
    "policies": ("deploy.policies", "print each principal's and each deployer's IAM document"),
    "export-cfn": ("deploy.export_cfn", "roles, bucket and repositories as a CloudFormation template"),
    "costs": ("deploy.costs", "what the stage costs per hour and per month"),
}


_BUG = 70  # as sysexits.h has it: an internal software error
_ROOT = Path(__file__).parent


def main(argv: Sequence[str] | None = None, **seams: Any) -> int:
    """The process's exit code: 0, or the error's.

    2: something in the file or flags must change; 1: AWS said no; 70: a bug of ours.
    `seams` are Context's own: session, clock, console, out.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if word in COMMANDS), None)
    args = _parser(chosen).parse_args(argv)
    err = Console(stderr=True, highlight=False)
    from deploy import config  # `--help` needs neither pydantic nor boto3
    from deploy.context import Context
    from deploy.errors import explained

    try:
        settings = config.read(args.environments / f"{args.stage}.toml")
        context = Context(settings, as_json=args.json, dry_run=args.dry_run, **seams)
        with explained(args.command):  # where no nearer place explained it
            return int(importlib.import_module(COMMANDS[args.command][0]).run(args, context) or 0)
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to go on")
        return 130
    except Exception as error:  # noqa: BLE001 - the last resort: a person reads one line, and --debug shows the rest
        if args.debug:
            traceback.print_exc()
        kind, text, code = _told(error)
        err.print(f"[red]{kind}[/] {_escaped(text)}", soft_wrap=True)
        return code


def _told(error: Exception) -> tuple[str, str, int]:
    """(kind, text, exit code): an error by design in its own words, this machine's as it says, anything else as our fault."""
    if isinstance(error, Error):
        return error.kind, str(error), error.exit_code
    if isinstance(error, OSError):  # a file, a disk, a connection that is not AWS's
        return type(error).__name__, str(error), 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_ROOT)]
    where = f" at {Path(frames[-1].filename).relative_to(_ROOT.parent)}:{frames[-1].lineno}" if frames else ""
    hint = (
        "the same command with --debug prints the traceback: please report it; what was done so far stays, and can be continued"
    )
    return "Bug", f"in Kennel, not in your file or flags{where}: {type(error).__name__}: {error}\n  try: {hint}", _BUG


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--stage", default="dev", help="which deploy/environments/<stage>.toml (dev)")
    shared.add_argument("--environments", type=Path, default=Path(__file__).parent / "environments", help=argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="one JSON document on stdout")
    shared.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    shared.add_argument("--debug", action="store_true", help="the traceback of an error, too")
    parser = argparse.ArgumentParser(prog="python -m deploy", description="From a laptop to a scaled endpoint.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text, parents=[shared])
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
