"""The table: one line per rule, printed as it is decided."""

import contextlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TextIO

GUIDE = "https://docs.aws.amazon.com/sagemaker/latest/dg/"
API = "https://docs.aws.amazon.com/sagemaker/latest/APIReference/"

Verdict = Literal["pass", "fail", "not tried"]
_COLOURS = {"pass": "\x1b[32m", "fail": "\x1b[31m", "not tried": "\x1b[33m"}


class NotTried(Exception):
    """This rule cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Line:
    rule: str
    verdict: Verdict
    why: str
    page: str


@dataclass
class Report:
    stream: TextIO = sys.stdout
    lines: list[Line] = field(default_factory=list)

    @contextlib.contextmanager
    def rule(self, rule: str, page: str) -> Iterator[None]:
        """The body checks one rule: it passes when the body ends, fails with whatever the body raises."""
        try:
            yield
        except NotTried as reason:
            self._add(Line(rule, "not tried", str(reason), page))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is this line's finding
            self._add(Line(rule, "fail", str(error) or type(error).__name__, page))
        else:
            self._add(Line(rule, "pass", "", page))

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        on, off = (_COLOURS[line.verdict], "\x1b[0m") if self.stream.isatty() else ("", "")
        print(f"{on}{line.verdict:<9}{off} {line.rule}", file=self.stream)
        if line.why:
            print(textwrap.indent(line.why.strip()[-700:], " " * 12), file=self.stream)
            print(f"            {line.page}", file=self.stream, flush=True)

    def failed(self) -> list[Line]:
        return [line for line in self.lines if line.verdict == "fail"]

    def summary(self) -> str:
        count = {verdict: sum(line.verdict == verdict for line in self.lines) for verdict in _COLOURS}
        return f"{len(self.lines)} rules: {count['pass']} pass, {count['fail']} fail, {count['not tried']} not tried"

    def markdown(self) -> str:
        """The table for a document, failures first."""
        order = {"fail": 0, "not tried": 1, "pass": 2}
        rows = [
            f"| {line.verdict} | {line.rule} | {' '.join(line.why.split())[:300].replace('|', '/')} | [page]({line.page}) |"
            for line in sorted(self.lines, key=lambda line: order[line.verdict])
        ]
        return "\n".join(["| | rule | why | source |", "| --- | --- | --- | --- |", *rows])


def require(condition: object, why: str) -> None:
    if not condition:
        raise AssertionError(why)
