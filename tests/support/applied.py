"""One stage applied, planned and destroyed in the fake account, with what was written. Each is held to its duty's documents."""

from datetime import timedelta

from moto.sagemaker.models import sagemaker_backends

from deploy import stack
from tests.support.aws import ACCOUNT, REGION, Recorder, client, context, release, stage
from tests.support.duties import held_to

FULL = {
    "scaling": {
        "scheduled": [
            {
                "name": "mornings",
                "schedule": "cron(0 7 ? * MON-FRI *)",
                "minimum": 2,
                "maximum": 6,
                "timezone": "Europe/Berlin",
            },
            {
                "name": "evenings",
                "schedule": "cron(0 19 ? * MON-FRI *)",
                "minimum": 1,
                "maximum": 3,
                "timezone": "Europe/Berlin",
            },
        ]
    },
    "function": {"url": True, "reserved_concurrency": 20, "provisioned_maximum": 6},
    "endpoint": {"capture_percent": 5},
    "alarms": {"topic_arn": "arn:aws:sns:eu-west-1:123456789012:oncall"},
}


def apply(config=None, which="a", recorder=None):
    engine = stack.engine(context(config), release(which))
    with held_to(["apply"], config or stage(), recorder):
        return list(engine.apply())


def plan(config=None, which="a", recorder=None):
    engine = stack.engine(context(config), release(which))
    with held_to(["plan"], config or stage(), recorder):
        return engine.plan()


def destroy(recorder=None):
    removal = stack.removal(context(), delete_data=True)
    with held_to(["destroy"], stage(), recorder):
        return list(removal.destroy())


def endpoint():
    return client("sagemaker").describe_endpoint(EndpointName="kennel-dev")


def grow_old():
    """What is not used yet was made years ago."""
    backend = sagemaker_backends[ACCOUNT][REGION]
    for made in [*backend.endpoint_configs.values(), *backend._models.values()]:
        made.creation_time -= timedelta(days=3650)


def writes_of(call, *args, **kwargs):
    recorder = Recorder()
    call(*args, recorder=recorder, **kwargs)
    return recorder.writes


def settled():
    """The endpoint's configuration once nothing is under way."""
    while (seen := endpoint())["EndpointStatus"] != "InService":
        pass
    return seen["EndpointConfigName"]


def interrupt():
    """Ctrl-C."""
    raise KeyboardInterrupt
