"""`python -m deploy COMMAND [--stage dev] …`.

Each command is a module with `add_arguments(parser)` and `run(args, context)`, which may return an exit code.
"""

from containers.core import installed

if __name__ == "__main__":
    installed.insist("python -m deploy", "boto3", "docker", "numpy", "pydantic", "rich")

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from deploy import failure

# command → (module, what it does). A module is imported only when its command runs.
COMMANDS: dict[str, tuple[str, str]] = {
    "images": ("deploy.images", "build, push, and resolve digests"),
    "data": ("deploy.data", "upload a folder of labelled photos; only what changed"),
    "train": ("deploy.training", "one training job: on SageMaker, on EC2, or on this machine's Docker"),
    "tune": ("deploy.tuning", "search hyperparameters on SageMaker, judged by our metrics"),
    "loadtest": ("deploy.loadtest", "measure a running server and propose scaling settings"),
    "simulate": ("deploy.simulate", "what the scaling policy would do under a course of traffic"),
    "logs": ("deploy.logs", "of a job, the endpoint, the Lambda or an instance"),
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


_INTERRUPTED = 130  # as shells have it: 128 and SIGINT's number


def main(argv: Sequence[str] | None = None, **seams: Any) -> int:
    """The process's exit code: 0, or the error's.

    2: something in the file or flags must change; 1: AWS said no; 70: a bug of ours.
    `seams` are Context's own: session, clock, console, out.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if word in COMMANDS), None)
    try:
        args = _parser(chosen).parse_args(argv)
    except _Misused as misused:
        if "--json" in argv:
            told = failure.misuse(misused.program, misused.message, misused.exit_code)
            failure.write(told.as_dict(), a_line=chosen == "logs")
        raise
    try:
        return _run(args, seams)
    except KeyboardInterrupt:
        told = failure.interruption(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort: a person reads one line, and --debug shows the rest
        if args.debug:
            traceback.print_exc()
        told = failure.of(error)
    Console(stderr=True, highlight=False).print(f"[red]{told.error}[/] {_escaped(told.text)}", soft_wrap=True)
    if args.json:
        failure.write(told.as_dict(), a_line=args.command == "logs")
    return told.exit_code


def _run(args: argparse.Namespace, seams: dict[str, Any]) -> int:
    from deploy import config  # `--help` needs neither pydantic nor boto3
    from deploy.context import Context
    from deploy.errors import explained

    settings = config.read(args.environments / f"{args.stage}.toml")
    context = Context(settings, as_json=args.json, dry_run=args.dry_run, **seams)
    with explained(args.command):  # where no nearer place explained it
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args, context) or 0)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


class _Misused(SystemExit):
    """argparse's own end, which remembers what was wrong."""

    exit_code = 2

    def __init__(self, program: str, message: str) -> None:
        super().__init__(self.exit_code)
        self.program, self.message = program, message


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise _Misused(self.prog, message)


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    shared = _Parser(add_help=False)
    shared.add_argument("--stage", default="dev", help="which deploy/environments/<stage>.toml (dev)")
    shared.add_argument("--environments", type=Path, default=Path(__file__).parent / "environments", help=argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="one JSON document on stdout, an error too")
    shared.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    shared.add_argument("--debug", action="store_true", help="the traceback of an error, too")
    parser = _Parser(prog="python -m deploy", description="From a laptop to a scaled endpoint.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text, parents=[shared])
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
