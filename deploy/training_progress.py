"""Watching a training job: its state, a live table of its metrics out of its log, a clean stop on Ctrl-C."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.live import Live
from rich.prompt import Prompt
from rich.table import Table

from containers.core.metrics import EPOCH_EVENT, FINAL_EVENT
from deploy.context import Context
from deploy.errors import explained
from deploy.logs import TRAINING_GROUP, Line, Tail, readable

Decision = Literal["stop", "leave", "stay"]
COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "images_per_second")
_ENDED = ("Completed", "Failed", "Stopped")
_POLL_SECONDS = 10.0
_LATE_POLLS = 3  # a log's last lines arrive some seconds after the job's end
_ROWS = 12


@dataclass
class Progress:
    """What was seen of one job so far. Peers' lines are dropped where they repeat an epoch: one host's are enough."""

    name: str
    state: str = "Starting"
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
        table = Table(title=f"{self.name}: {self.state}", title_justify="left")
        for column in ("epoch", *COLUMNS):
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.epochs[-_ROWS:]:
            table.add_row(str(row.get("epoch", "")), *(_number(row.get(column)) for column in COLUMNS))
        return table


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def ask(context: Context) -> Decision:
    """What Ctrl-C meant. Where nobody can be asked the job goes on: it is not ours to lose."""
    if not context.console.is_terminal:
        return "leave"
    answer = Prompt.ask("stop the job, leave it running, or stay?", choices=["stop", "leave", "stay"], console=context.console)
    return "stop" if answer == "stop" else "leave" if answer == "leave" else "stay"


def follow(context: Context, name: str, decide: Callable[[], Decision]) -> tuple[dict[str, Any], Progress]:
    """(DescribeTrainingJob's last answer, what was seen). Returns before the job's end only where `decide` says leave.

    A stop lets the job write its checkpoint (SageMaker gives it two minutes) and is watched to its end.
    """
    sagemaker, tail, progress = context.client("sagemaker"), Tail(context, TRAINING_GROUP, f"{name}/"), Progress(name)
    live = Live(progress.table(), console=context.console) if context.console.is_terminal else nullcontext()
    job: dict[str, Any] = {"TrainingJobStatus": "InProgress"}
    late = _LATE_POLLS
    with live:
        while True:
            try:
                with explained(f"training job {name}"):
                    job = sagemaker.describe_training_job(TrainingJobName=name)
                _show(context, progress, job, tail.new_lines(), live)
                late -= job["TrainingJobStatus"] in _ENDED
                if late == 0 or (late < _LATE_POLLS and progress.result):
                    return job, progress
                context.clock.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                if isinstance(live, Live):
                    live.stop()
                decision = decide()
                if decision == "leave":
                    return job, progress
                if decision == "stop":
                    with explained(f"training job {name}"):
                        sagemaker.stop_training_job(TrainingJobName=name)
                    context.say(f"asked {name} to stop; it writes its checkpoint first")
                if isinstance(live, Live):
                    live.start()


def _show(context: Context, progress: Progress, job: dict[str, Any], lines: list[Line], live: Any) -> None:
    state = f"{job['TrainingJobStatus']}, {job.get('SecondaryStatus', '')}".rstrip(", ")
    if not isinstance(live, Live) and state != progress.state:
        context.say(f"{progress.name}: {state}")
    progress.state = state
    for line in lines:
        seen = len(progress.epochs)
        if text := progress.take(line):
            context.console.print(text, markup=False, soft_wrap=True)
        if not isinstance(live, Live) and len(progress.epochs) > seen:
            context.console.print(readable(line), markup=False, soft_wrap=True)
    if isinstance(live, Live):
        live.update(progress.table())
