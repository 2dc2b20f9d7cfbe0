"""What people see of a SageMaker job until its end, and what Ctrl-C does. The cloud's side is played by `Cloud`."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from containers.train.config import TrainConfig
from deploy import job_costs, training
from deploy.context import Context
from deploy.errors import DeployError
from deploy.price_file import Prices
from deploy.training_progress import Progress, ask
from deploy.training_request import Run, go_on
from tests.support import aws as fake

IMAGE = "registry/train@sha256:" + "a" * 64


class Cloud:
    """SageMaker and CloudWatch for one job: each poll is the next of `states`, with the log lines that came by then."""

    def __init__(self, states: list[tuple[str, list[str]]], reason: str = "", secondary: str = "Training") -> None:
        self.states, self.reason, self.stopped, self.polls, self.lines = states, reason, [], 0, []
        self.secondary = secondary

    def describe_training_job(self, *, TrainingJobName: str) -> dict:
        state, lines = self.states[min(self.polls, len(self.states) - 1)]
        self.lines += lines if self.polls < len(self.states) else []
        self.polls += 1
        answer = {"TrainingJobName": TrainingJobName, "TrainingJobStatus": state, "SecondaryStatus": self.secondary}
        return answer | ({"FailureReason": self.reason} if self.reason else {})

    def describe_log_streams(self, **_: object) -> dict:
        return {"logStreams": [{"logStreamName": "kennel-dev-1/algo-1"}]}

    def get_paginator(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(paginate=lambda **_: [self.describe_log_streams()])

    def get_log_events(self, *, nextToken: str = "0", **_: object) -> dict:
        new = self.lines[int(nextToken) :]
        events = [{"timestamp": 1, "message": text} for text in new]
        return {"events": events, "nextForwardToken": str(int(nextToken) + len(new))}

    def stop_training_job(self, *, TrainingJobName: str) -> None:
        self.stopped.append(TrainingJobName)


def epoch(number: int) -> str:
    return json.dumps({"level": "INFO", "event": "epoch", "epoch": number, "train_loss": 1 / number, "valid_accuracy": 0.5})


def watching(cloud: Cloud) -> Context:
    return fake.context(session=fake.Instead(cloud))


RUN = Run(
    name="kennel-dev-1",
    image=IMAGE,
    dataset="dogs",
    channels=(),
    hyperparameters=TrainConfig(),
    checkpoints="kennel-dev-1",
)


def conclude(context: Context, decide=lambda: "leave") -> Progress:
    job = training.SageMakerJob(context, RUN.name)
    progress = training.follow(context, job, decide)
    context.names = context.names_in("123456789012")
    price = job_costs.of_training(context.config, Prices.read())
    training.conclude(context, RUN, job.seen, progress.result, price)
    return progress


def test_epochs_and_warnings_are_shown_as_they_come_and_the_result_at_the_end():
    noise, warning = json.dumps({"level": "INFO", "event": "noise"}), json.dumps({"level": "WARNING", "event": "bad photo"})
    result = json.dumps({"level": "INFO", "event": "result", "epoch": 2, "test_accuracy": 0.87})
    cloud = Cloud(
        [("InProgress", [noise]), ("InProgress", [epoch(1), warning]), ("Completed", [epoch(2)]), ("Completed", [result])]
    )
    context = watching(cloud)
    progress = conclude(context)
    assert [row["epoch"] for row in progress.epochs] == [1, 2]
    assert "bad photo" in context.console.text
    assert "train_loss=0.5" in context.console.text
    assert "noise" not in context.console.text
    assert "0.87" in context.out.text  # though that line came after the job's end
    assert "s3://kennel-dev-123456789012-eu-west-1/training/kennel-dev-1/output/model.tar.gz" in context.out.text


def test_at_a_terminal_the_table_is_live_and_leaves_the_screen_to_a_question():
    cloud = Cloud([("InProgress", [epoch(1)]), ("InProgress", []), ("Completed", [epoch(2)])])
    context = watching(cloud)
    context.console = fake.Screen(force_terminal=True)
    interrupted_once(context)

    def decide() -> str:
        context.console.print("the question")
        return "stay"

    conclude(context, decide)
    assert "the question" in context.console.text
    assert "valid accuracy" in context.console.text
    assert "kennel-dev-1: Completed, Training" in context.console.text


def test_a_network_that_fails_ends_the_watching_and_not_the_job():
    cloud = Cloud([("InProgress", [])])

    def unreachable(**_):
        if cloud.polls:
            raise EndpointConnectionError(endpoint_url="https://logs")
        return Cloud.describe_log_streams(cloud)

    cloud.describe_log_streams = unreachable
    with pytest.raises(DeployError, match="; kennel-dev-1 goes on without us") as caught:
        conclude(watching(cloud))
    assert caught.value.hint.startswith("`python -m deploy logs --follow --stage dev kennel-dev-1` shows it again; ")


def test_who_is_throttled_while_watching_is_not_told_to_start_another_job():
    cloud = Cloud([("InProgress", [])])
    answer = {"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}

    def throttled(**_):
        raise ClientError(answer, "DescribeLogStreams")

    cloud.describe_log_streams = throttled
    with pytest.raises(DeployError, match="goes on without us") as caught:
        conclude(watching(cloud))
    assert caught.value.hint == "`python -m deploy logs --follow --stage dev kennel-dev-1` shows it again"
    assert caught.value.code == "ThrottlingException"


@pytest.mark.parametrize(
    ("secondary", "setting"), [("MaxRuntimeExceeded", "max_runtime_seconds"), ("MaxWaitTimeExceeded", "max_wait_seconds")]
)
def test_a_job_that_its_time_limit_stopped_has_not_succeeded(secondary, setting):
    """It leaves no model: a script must not go on to release one."""
    with pytest.raises(DeployError, match=rf"\[training\] {setting} was over") as caught:
        conclude(watching(Cloud([("Stopped", [])], secondary=secondary)))
    assert f"raise {setting}, then go on from its checkpoint" in caught.value.hint
    assert "--resume kennel-dev-1" in caught.value.hint


def test_a_failed_job_is_an_error_with_its_own_reason():
    with pytest.raises(DeployError, match="DataError: 40 of 100 photos") as caught:
        conclude(watching(Cloud([("Failed", [])], reason="DataError: 40 of 100 photos cannot be read")))
    assert "--resume kennel-dev-1" in caught.value.hint


def test_to_go_on_is_with_the_settings_that_the_run_had_and_the_stage_has_not():
    own = replace(RUN, hyperparameters=TrainConfig(learning_rate=0.02, resume="weights"))
    stage = watching(Cloud([])).config
    command = "python -m deploy train --stage dev --data dogs --resume kennel-dev-1"
    assert go_on(stage, RUN) == command
    assert go_on(stage, own) == f"{command} --set learning_rate=0.02 --set resume=weights"


def interrupted_once(context: Context) -> None:
    """The first wait is ended by Ctrl-C."""

    def interrupt() -> None:
        context.clock.on_sleep = lambda: None
        raise KeyboardInterrupt

    context.clock.on_sleep = interrupt


def test_ctrl_c_can_stop_the_job_and_is_watched_to_its_end():
    cloud = Cloud([("InProgress", [epoch(1)]), ("Stopping", []), ("Stopped", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "stop")
    assert cloud.stopped == [RUN.name]
    assert "ended as Stopped" in context.console.text
    assert "--resume kennel-dev-1" in context.console.text


def test_ctrl_c_can_leave_it_running():
    cloud = Cloud([("InProgress", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "leave")
    assert cloud.stopped == []
    assert "goes on without us" in context.console.text


def test_ctrl_c_can_be_taken_back():
    cloud = Cloud([("InProgress", []), ("Completed", [])])
    context = watching(cloud)
    interrupted_once(context)
    conclude(context, lambda: "stay")
    assert "Completed" in context.out.text


def test_where_nobody_can_be_asked_the_job_goes_on():
    assert ask(watching(Cloud([]))) == "leave"


def test_the_live_table_has_the_newest_epochs():
    progress = Progress("job")
    progress.epochs = [{"epoch": number, "train_loss": 0.25} for number in range(1, 31)]
    screen = fake.Screen()
    screen.print(progress.table())
    assert "30" in screen.text
    assert "0.25" in screen.text
    assert " 3 " not in screen.text
