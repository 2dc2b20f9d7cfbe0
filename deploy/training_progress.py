"""Watching a training job wherever it runs: state, a live table of metrics out of its log, a clean stop on Ctrl-C."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rich.live import Live
from rich.prompt import Prompt
from rich.table import Table

from containers.core.metrics import EPOCH_EVENT, FINAL_EVENT
from deploy.context import Context, duration
from deploy.errors import DeployError
from deploy.logs import Line, Tail, readable

Decision = Literal["stop", "leave", "stay"]
COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "images_per_second")
_POLL_SECONDS = 10.0
_LATE_POLLS = 3  # a log's last lines arrive some seconds after the job's end
_ROWS = 12


@dataclass
class Progress:
    """What was seen of one job so far. Peers' lines are dropped where they repeat an epoch: one host's are enough."""

    name: str
    state: str = "Starting"
    elapsed: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    def take(self, line: Line) -> str:
        """Note the line's numbers; the text that people should see now, empty for most lines."""
        fields = line.fields
        if fields.get("event") == EPOCH_EVENT:
            self.epochs.append(fields)
            return ""
        if fields.get("event") == FINAL_EVENT:
            self.result = fields
        return readable(line) if not fields or fields.get("level") not in (None, "INFO", "DEBUG") else ""

    def table(self) -> Table:
        """The newest epochs."""
        table = Table(title=f"{self.name}: {self.state}, {duration(self.elapsed)}", title_justify="left")
        for column in ("epoch", *COLUMNS):
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.epochs[-_ROWS:]:
            table.add_row(str(row.get("epoch", "")), *(_number(row.get(column)) for column in COLUMNS))
        return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


class Job(Protocol):
    """A running job, on SageMaker or on EC2."""

    name: str
    ended: bool
    """As of the last `poll`."""

    @property
    def look(self) -> str:
        """The command that shows its log once nobody watches any more."""

    def tail(self) -> Tail: ...

    def poll(self) -> str:
        """Its state, for people."""

    def stop(self) -> None:
        """Ask it to write its checkpoint and end."""


def decision_of(flag: str, context: Context) -> Callable[[], Decision]:
    """What Ctrl-C does, by --on-interrupt."""
    decisions: dict[str, Callable[[], Decision]] = {"stop": lambda: "stop", "leave": lambda: "leave"}
    return decisions.get(flag, lambda: ask(context))


def ask(context: Context) -> Decision:
    """What Ctrl-C meant. Where nobody can be asked the job goes on: it is not ours to lose."""
    if not context.console.is_terminal:
        return "leave"
    answer = Prompt.ask("stop the job, leave it running, or stay?", choices=["stop", "leave", "stay"], console=context.console)
    return "stop" if answer == "stop" else "leave" if answer == "leave" else "stay"


def follow(context: Context, job: Job, decide: Callable[[], Decision]) -> Progress:
    """Watch until the job's end, or until `decide` (Ctrl-C) says leave. A job that is stopped is watched to its end."""
    tail, progress, late = job.tail(), Progress(job.name), _LATE_POLLS
    started = context.clock.monotonic()
    live = Live(progress.table(), console=context.console) if context.console.is_terminal else None
    with live or nullcontext():
        while True:
            try:
                progress.elapsed = context.clock.monotonic() - started
                _show(context, progress, job.poll(), tail.new_lines(), live)
                late -= job.ended
                if late == 0 or (job.ended and progress.result):
                    return progress
                context.clock.sleep(_POLL_SECONDS)
            except DeployError as error:
                if job.ended:
                    raise
                raise goes_on(error, job.name, job.look) from error
            except KeyboardInterrupt:
                if live:
                    live.stop()  # a question needs the terminal for itself
                decision = decide()
                if decision == "leave":
                    return progress
                if decision == "stop":
                    job.stop()
                    context.say(f"asked {job.name} to stop; it writes its checkpoint first")
                if live:
                    live.start()


def goes_on(error: DeployError, name: str, look: str) -> DeployError:
    """`error` ended the watching, and not what was watched: the same command again would start another one."""
    own = "" if "same command again" in error.hint else error.hint
    hint = f"`{look}` shows it again" + (f"; {own}" if own else "")
    return DeployError(error.where, f"{error.problem}; {name} goes on without us", hint=hint, code=error.code)


def _show(context: Context, progress: Progress, state: str, lines: list[Line], live: Live | None) -> None:
    if live is None and state != progress.state:
        context.say(f"{progress.name}: {state}, after {duration(progress.elapsed)}")
    progress.state = state
    for line in lines:
        seen = len(progress.epochs)
        text = progress.take(line)
        if live is None and len(progress.epochs) > seen:
            text = readable(line)
        if text:
            context.console.print(text, markup=False, soft_wrap=True)
    if live:
        live.update(progress.table())
