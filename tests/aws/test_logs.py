import argparse
import contextlib
import json
import time
from datetime import UTC, datetime

import pytest

from deploy import __main__ as program
from deploy import logs
from deploy.errors import Refused
from deploy.logs import Line, Tail, readable
from tests.support import aws as fake

GROUP = logs.TRAINING_GROUP
NOW = int(time.time() * 1000)


@pytest.fixture
def context(aws):
    made = fake.context()
    made.clock.now = lambda: datetime.now(UTC)  # as the lines' times are
    return made


def write(context, stream: str, *texts: str, start: int = 0, group: str = GROUP) -> None:
    client = context.client("logs")
    if not client.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        client.create_log_group(logGroupName=group)
    if not client.describe_log_streams(logGroupName=group, logStreamNamePrefix=stream)["logStreams"]:
        client.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [{"timestamp": NOW + start + number, "message": text} for number, text in enumerate(texts)]
    client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_every_line_of_every_stream_once_in_order_of_time(context):
    tail = Tail(context, GROUP, "job-1/")
    assert tail.new_lines() == []  # the group does not exist yet
    write(context, "job-1/algo-1", "a", "c", start=0)
    write(context, "job-1/algo-2", "b", start=-50)
    write(context, "job-10/algo-1", "not ours")
    assert [(line.stream, line.text) for line in tail.new_lines()] == [("algo-2", "b"), ("algo-1", "a"), ("algo-1", "c")]
    assert tail.new_lines() == []
    write(context, "job-1/algo-1", "d", start=100)
    assert [line.text for line in tail.new_lines()] == ["d"]


def test_a_line_of_ours_is_read_for_people_and_other_lines_are_kept():
    text = json.dumps(
        {"time": "x", "level": "WARNING", "event": "skipped photos", "logger": "l", "count": 3, "share": 0.123456}
    )
    assert readable(Line(stream="algo-1", at=0, text=text)) == "00:00:00 algo-1 WARNING skipped photos count=3 share=0.1235"
    assert readable(Line(stream="algo-1", at=0, text="{broken\n")) == "00:00:00 algo-1 {broken"


@pytest.mark.parametrize(
    ("what", "group", "stream"),
    [
        (["endpoint"], "/aws/sagemaker/Endpoints/kennel-dev", "main/i-1"),
        (["lambda"], "/aws/lambda/kennel-dev-invoke", "2026/11/22/[1]abc"),
        (["ec2", "r1"], "/kennel/dev/ec2", "r1/algo-1"),
        (["job-1"], GROUP, "job-1/algo-1"),
    ],
)
def test_the_command_finds_each_kind_of_log(context, what, group, stream):
    write(context, stream, "hello [world]", group=group)
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    logs.run(parser.parse_args(what), context)
    assert "hello [world]" in context.out.text


def test_with_json_each_line_is_one_document(context, capsys):
    """A traceback in the text, brackets and emoji codes are nothing to us."""
    texts = ["Traceback [1]:\n  :warning: " + "x" * 300, '{"event": "loss", "value": 0.5}']
    write(context, "job-1/algo-1", *texts)
    context.as_json = True
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    logs.run(parser.parse_args(["job-1"]), context)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documents == [{"stream": "algo-1", "at": NOW + number, "text": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize("words", [["a", "b"], ["--minutes", "x", "endpoint"]], ids=["refused", "misused"])
def test_with_json_an_error_is_one_more_line(aws, tmp_path, capsys, words):
    (tmp_path / "dev.toml").write_text('[stage]\nregion = "eu-west-1"\n')
    with contextlib.suppress(SystemExit):
        program.main(["logs", *words, "--json", "--environments", str(tmp_path)], session=fake.SharedSession())
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["exit_code"] == 2


def test_people_read_a_line_as_it_was_written(context):
    write(context, "job-1/algo-1", "ratio 16:9 :warning: [/red]")
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    logs.run(parser.parse_args(["job-1"]), context)
    assert "ratio 16:9 :warning: [/red]" in context.out.text


def test_old_lines_of_the_endpoint_are_left_out_unless_asked_for(context):
    group = "/aws/sagemaker/Endpoints/kennel-dev"
    write(context, "main/i-1", "long ago", start=-2 * 3600 * 1000, group=group)
    write(context, "main/i-1", "just now", group=group)
    assert [line.text for line in Tail(context, group, minutes=60).new_lines()] == ["just now"]
    assert len(Tail(context, group).new_lines()) == 2


def test_a_transform_job_has_a_group_of_its_own(context):
    write(context, "kennel-dev-1/i-1", "no such photo", group="/aws/sagemaker/TransformJobs")
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    logs.run(parser.parse_args(["transform", "kennel-dev-1"]), context)
    assert "i-1 no such photo" in context.out.text


def test_an_unknown_log_is_refused(context):
    with pytest.raises(Refused, match="no such log"):
        logs.run(argparse.Namespace(what=["a", "b"], follow=False, minutes=None), context)


def test_where_there_is_nothing_it_says_so(context):
    parser = argparse.ArgumentParser()
    logs.add_arguments(parser)
    logs.run(parser.parse_args(["endpoint"]), context)
    assert "no lines in /aws/sagemaker/Endpoints/kennel-dev of the last 60 minutes" in context.console.text
