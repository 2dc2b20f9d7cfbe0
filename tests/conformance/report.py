"""The table: one line per rule, printed as it is decided."""

import contextlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TextIO

GUIDE = "https://docs.aws.amazon.com/sagemaker/latest/dg/"
API = "https://docs.aws.amazon.com/sagemaker/latest/APIReference/"

Verdict = Literal["pass", "fail", "advice", "not tried"]
_COLOURS = {"pass": "\x1b[32m", "fail": "\x1b[31m", "advice": "\x1b[36m", "not tried": "\x1b[33m"}


class NotTried(Exception):
    """This rule cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Line:
    """`page` is an address, or two with a space between them."""

    rule: str
    verdict: Verdict
    why: str
    page: str


@dataclass
class Report:
    stream: TextIO = sys.stdout
    lines: list[Line] = field(default_factory=list)

    def rule(self, rule: str, page: str) -> contextlib.AbstractContextManager[None]:
        """The body checks what `page` demands: it passes when the body ends, fails with whatever the body raises."""
        return self._checked(rule, page, "fail")

    def advice(self, rule: str, page: str) -> contextlib.AbstractContextManager[None]:
        """The body checks what no page demands, but `page` says why it pays: whatever the body raises is advice, no failure."""
        return self._checked(rule, page, "advice")

    def not_tried(self, rule: str, why: str, page: str) -> None:
        self._add(Line(rule, "not tried", why, page))

    @contextlib.contextmanager
    def _checked(self, rule: str, page: str, otherwise: Verdict) -> Iterator[None]:
        try:
            yield
        except NotTried as reason:
            self.not_tried(rule, str(reason), page)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is this line's finding
            self._add(Line(rule, otherwise, str(error) or type(error).__name__, page))
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
        return self.found("fail")

    def found(self, verdict: Verdict) -> list[Line]:
        return [line for line in self.lines if line.verdict == verdict]

    def summary(self) -> str:
        counts = ", ".join(f"{len(self.found(verdict))} {verdict}" for verdict in _COLOURS)
        return f"{len(self.lines)} rules: {counts}"

    def markdown(self) -> str:
        """The table for a document, failures first."""
        order = ["fail", "advice", "not tried", "pass"]
        rows = [
            f"| {line.verdict} | {line.rule} | {' '.join(line.why.split())[:300].replace('|', '/')} | {_links(line.page)} |"
            for line in sorted(self.lines, key=lambda line: order.index(line.verdict))
        ]
        return "\n".join(["| | rule | why | source |", "| --- | --- | --- | --- |", *rows])


def _links(page: str) -> str:
    return " ".join(f"[page]({address})" for address in page.split())


def require(condition: object, why: str) -> None:
    if not condition:
        raise AssertionError(why)
