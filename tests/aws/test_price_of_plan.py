"""What the cost table counts is what the plan makes, and what a refusal for the price advises is true."""

import re

import pytest

from deploy import __main__ as program
from deploy import costs, stack
from deploy.alarms import Alarm
from deploy.autoscaling import TrackingPolicy
from deploy.config import StageConfig
from deploy.function_scaling import ProvisionedScaling
from deploy.price_file import Prices
from tests.support.aws import client, context, release, stage
from tests.support.fleet import BUCKET
from tests.support.released import push

STAGES = [
    {},
    {"scaling": {"profile": "seed"}},
    {"scaling": {"profile": "none"}},
    {"endpoint": {"kind": "async"}, "scaling": {"minimum": 0}, "function": {"enabled": False}},
    {"endpoint": {"kind": "async"}, "scaling": {"profile": "none"}, "function": {"enabled": False}},
    {"endpoint": {"kind": "serverless"}},
    {"function": {"enabled": False}},
    {"function": {"provisioned_maximum": 6}},
]


@pytest.mark.parametrize("tables", STAGES, ids=str)
def test_every_alarm_is_paid(aws, tables):
    """Ours by their number in the plan, AWS's own by the policies there that it makes them for."""
    config, prices = stage(**tables), Prices.read()
    made = [resource for resource in stack.engine(context(config), release()).resources if resource.wanted]
    ours = sum(isinstance(resource, Alarm) for resource in made)
    tracking = [resource for resource in made if isinstance(resource, TrackingPolicy)]
    quick = sum("HighResolution" in str(resource.desired()) for resource in tracking)
    slow = len(tracking) - quick + sum(isinstance(resource, ProvisionedScaling) for resource in made)
    month = (ours + 2 * slow) * prices.alarm_month + 2 * quick * prices.alarm_high_resolution_month
    rows = [cost.maximum for cost in costs.estimate(config, prices) if cost.what.startswith("CloudWatch")]
    assert sum(rows) * costs.HOURS_PER_MONTH == pytest.approx(month)


def named(err: str) -> list[str]:
    """`table.setting` of everything that the hint calls a setting; all of it exists, and so does each flag."""
    hint = err.partition("try: ")[2]
    fields = StageConfig.model_fields
    found = []
    for table, first, second in re.findall(r"\[(\w+)\] (\w+)(?: or (\w+))?", hint):
        for setting in filter(None, (first, second)):
            assert setting in fields[table].annotation.model_fields, f"[{table}] {setting}"
            found.append(f"{table}.{setting}")
    for flag in re.findall(r"--[a-z-]+", hint):
        argv = ["release", flag, *(["x"] if flag == "--prices" else [])]
        program._parser("release").parse_args(argv)
    return found


STAGE = '[stage]\nregion = "eu-west-1"\nprice_ceiling_per_month = {}\n'
G5 = '[endpoint]\ninstance_type = "ml.g5.2xlarge"\n[scaling]\nprofile = "none"\n'
SMALL = '[endpoint]\nkind = "serverless"\nmax_concurrency = 1\nmemory_mb = 1024\n'
RUSH = 'scheduled = [{name = "rush", schedule = "cron(0 7 * * ? *)", minimum = 2, maximum = 9}]\n'
ONE = "[scaling]\nmaximum = 1\n"


@pytest.mark.parametrize(
    ("ceiling", "tables", "advised", "helps"),
    [
        (1500, "", "scaling.maximum", "[scaling]\nmaximum = 2\n"),
        (1500, f"{G5}minimum = 2\n", "scaling.minimum", G5),
        (1500, f"[scaling]\nmaximum = 2\n{RUSH}", "scaling.scheduled", "[scaling]\nmaximum = 2\n"),
        (300, ONE, "endpoint.instance_type", f'{ONE}[endpoint]\ninstance_type = "ml.m5.large"\n'),
        (500, '[endpoint]\nkind = "serverless"\n', "endpoint.max_concurrency", SMALL),
        (100, f"{SMALL}[function]\nprovisioned_concurrency = 40\n", "function.provisioned_concurrency", SMALL),
    ],
)
def test_the_setting_that_a_refusal_names_is_what_helps(deploy, ceiling, tables, advised, helps):
    deploy.stage.write_text(STAGE.format(ceiling) + tables)
    refused = deploy("plan")[1]["refused"]
    assert "can cost $" in refused
    assert advised in named(refused)
    deploy.stage.write_text(STAGE.format(ceiling) + helps)
    assert deploy("plan")[1]["refused"] is None


def test_a_price_that_is_not_known_names_the_part_and_the_price_file(deploy):
    deploy.stage.write_text(STAGE.format(5000) + '[endpoint]\ninstance_type = "ml.g6.xlarge"\n')
    refused = deploy("plan")[1]["refused"]
    assert "the price of endpoint, 1–4 × ml.g6.xlarge is not known" in refused
    assert "--prices FILE" in refused
    assert "endpoint.instance_type" in named(refused)


def test_a_release_on_ec2_is_told_of_its_own_settings(on_ec2):
    on_ec2.write(instance_type="g4dn.12xlarge")
    on_ec2.stage.write_text(on_ec2.stage.read_text().replace("= 5000", "= 1000"))
    push()
    client("s3").put_object(Bucket=BUCKET, Key="training/kennel-dev-20261122-000000-0001/output/model.tar.gz", Body=b"x")
    code, _, err = on_ec2("release", "--on", "ec2", "--job", "kennel-dev-20261122-000000-0001")
    assert code == 2
    assert named(err) == ["ec2_serving.instance_type", "stage.price_ceiling_per_month"]
    assert "[scaling]" not in err
