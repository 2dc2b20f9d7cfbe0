"""One stage applied, planned and destroyed in the fake account, with what was written."""

from deploy import stack
from tests.support.aws import Recorder, client, context, release

FULL = {
    "function": {"url": True, "reserved_concurrency": 20, "provisioned_maximum": 6},
    "endpoint": {"capture_percent": 5},
    "alarms": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:oncall"},
}


def apply(config=None, which="a", recorder=None):
    return list(stack.engine(context(config, recorder), release(which)).apply())


def plan(config=None, which="a", recorder=None):
    return stack.engine(context(config, recorder), release(which)).plan()


def destroy(recorder=None):
    return list(stack.removal(context(recorder=recorder), delete_data=True).destroy())


def endpoint():
    return client("sagemaker").describe_endpoint(EndpointName="kennel-dev")


def writes_of(call, *args, **kwargs):
    recorder = Recorder()
    call(*args, recorder=recorder, **kwargs)
    return recorder.writes
