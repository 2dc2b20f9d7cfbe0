"""How a command's error is told: one line for people on stderr and, with --json, one JSON document on stdout as well.

On stdout because the result would have been there: whoever reads that stream finds exactly one document, and the exit code says
which of the two it is. stderr is no place for it: progress and the output of programs that we run (docker build) go there.
`logs` writes a document a line; an error is one more.
"""

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containers.core.errors import Error

BUG = 70  # as sysexits.h has it: an internal software error
_ROOT = Path(__file__).parent
_REPORT = (
    "the same command with --debug prints the traceback: please report it; what was done so far stays, and can be continued"
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`error` is the kind (Refused, ConfigError, Bug, …), `code` AWS's own where AWS answered with one; "" where there is none.

    `text` is what people read.
    """

    error: str
    exit_code: int
    text: str
    problem: str
    where: str = ""
    hint: str = ""
    code: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The document. Every key is always there; null says that there is nothing to say."""
        parts = {"where": self.where, "problem": self.problem, "hint": self.hint, "aws_code": self.code}
        return {"error": self.error, **{key: value or None for key, value in parts.items()}, "exit_code": self.exit_code}


def of(error: Exception) -> Failure:
    """An error by design in its own words, this machine's as it says, anything else as our fault."""
    from deploy.errors import DeployError  # `--help`, and a mistake in the flags, need no botocore

    kind, text = type(error).__name__, str(error)
    if isinstance(error, DeployError):
        parts = {"where": error.where, "problem": error.problem, "hint": error.hint, "code": error.code}
        return Failure(error=error.kind, exit_code=error.exit_code, text=text, **parts)
    if isinstance(error, Error):
        return Failure(error=error.kind, exit_code=error.exit_code, text=text, problem=text)
    if isinstance(error, OSError):  # a file, a disk, a connection that is not AWS's
        return Failure(error=kind, exit_code=1, text=text, problem=text, where=str(error.filename or ""))
    where, problem = _place(error), f"{kind}: {error}"
    told = f"in Kennel, not in your file or flags{where and f' at {where}'}: {problem}\n  try: {_REPORT}"
    return Failure(error="Bug", exit_code=BUG, text=told, problem=problem, where=where, hint=_REPORT)


def misuse(program: str, message: str, exit_code: int) -> Failure:
    """Flags that argparse does not take."""
    hint = f"{program} --help"
    return Failure(error="UsageError", exit_code=exit_code, text=message, problem=message, where=program, hint=hint)


def interruption(exit_code: int) -> Failure:
    """Ctrl-C."""
    again = "run the same command again to go on"
    return Failure(
        error="Interrupted", exit_code=exit_code, text=f"by Ctrl-C; {again}", problem="interrupted by Ctrl-C", hint=again
    )


def write(document: Any, *, a_line: bool = False) -> None:
    """One JSON document on stdout, at once; `a_line`: on one line, as whoever reads `logs` takes it."""
    json.dump(document, sys.stdout, indent=None if a_line else 2, default=str, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def _place(error: Exception) -> str:
    """`deploy/context.py:93`, the innermost of our own lines."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(_ROOT)]
    return f"{Path(frames[-1].filename).relative_to(_ROOT.parent)}:{frames[-1].lineno}" if frames else ""
