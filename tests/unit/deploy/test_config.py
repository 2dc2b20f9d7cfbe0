"""The stage's file: one typed object, or everything that is wrong with it in one message."""

import tomllib
from datetime import UTC, datetime

import boto3
import pytest

from containers.core.errors import ConfigError
from deploy import config
from deploy.scaling_schedule import ScheduledAction

REGION = {"region": "eu-west-1"}
RUSH = {"name": "rush", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 2, "maximum": 6}
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def load(**tables):
    return config.load("dev", {"stage": REGION} | tables, where="dev.toml")


def test_everything_wrong_comes_back_at_once():
    with pytest.raises(ConfigError) as caught:
        load(
            stage={"regin": "x", "region": "eu-west-1"},
            scalin={},
            hyperparameters={"learnin_rate": 1, "epochs": -1},
            serving={"max_batch": 0},
            scaling={"minimum": 9},
            endpoint={"instance_type": "g4dn.xlarge"},
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "dev.toml: 7 settings cannot be used"
    assert "  - [scalin]: no such table; did you mean [scaling]?" in lines
    assert "  - [stage] regin: no such setting; did you mean region?" in lines
    assert "  - [hyperparameters] learnin_rate: no such setting; did you mean learning_rate?" in lines
    assert any("[hyperparameters] epochs" in line and "(got -1)" in line for line in lines)
    assert any("[serving] max_batch" in line for line in lines)
    assert "  - [scaling] minimum is above maximum" in lines
    assert any("[endpoint] instance_type" in line for line in lines)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"stage": {"region": "mars"}}, "[stage] region: is no region of AWS's: they look like eu-west-1"),
        ({"stage": {"region": "eu-west1"}}, "is no region of AWS's"),
        ({"scaling": {"minimum": 0}}, "only with [endpoint] kind = 'async'"),
        ({"endpoint": {"instance_type": "ml.t2.medium"}}, "burstable"),
        ({"serving": {"device": "cpu"}}, "on a GPU instance"),
        ({"endpoint": {"kind": "multi-model"}}, "kind = 'multi-model' on ml.g4dn.xlarge"),
        ({"endpoint": {"kind": "multi-model", "instance_type": "ml.g5.xlarge"}}, "choose a CPU type"),
        ({"training": {"spot": True, "max_wait_seconds": 600}}, "max_wait_seconds must be at least"),
        ({"training": {"spot": True, "keep_alive_seconds": 60}}, "exclude each other"),
        ({"rollout": {"traffic": "linear", "percent": 5}}, "10 to 50"),
        ({"rollout": {"traffic": "linear", "percent": 10, "wait_seconds": 600}}, "[rollout] waits 5520 s in all"),
        ({"rollout": {"wait_seconds": 3600}}, "every release would be"),
        ({"rollout": {"traffic": "all-at-once", "termination_wait_seconds": 3600}}, "update_limit_minutes = 60"),
        ({"endpoint": {"update_limit_minutes": 10}}, "[rollout] waits 420 s in all"),
        (
            {"endpoint": {"kind": "async", "update_limit_minutes": 10}, "function": {"enabled": False}},
            "[rollout] waits 420 s in all",
        ),
        ({"security": {"subnet_ids": ["subnet-1"]}}, "go together"),
        ({"stage": REGION | {"project": "sg"}}, "names that begin with sg-"),
        ({"stage": REGION | {"project": "sthree-photos"}}, "names that begin with sthree-"),
        ({"stage": REGION | {"project": "amzn-s3"}}, "names that begin with amzn-s3-"),
        ({"function": {"provisioned_concurrency": 3, "reserved_concurrency": 5}}, "must be 6 or more"),
        ({"function": {"provisioned_concurrency": 3, "provisioned_maximum": 2}}, "below"),
        ({"hyperparameters": {"architecture": "resnet51"}}, "architecture: Input should be 'resnet18', 'resnet34'"),
        ({"hyperparameters": {"epochs": 0, "head_epochs": 0}}, "nothing would be trained"),
        (
            {"hyperparameters": {"torch_compile": True, "sync_batchnorm": True}},
            "torch_compile and sync_batchnorm exclude each other",
        ),
        ({"stage": "eu-west-1"}, "a table is expected"),
        ({"ec2": {"instance_type": "ml.g4dn.xlarge"}}, "[ec2] instance_type"),
        ({"ec2_serving": {"callers": ["0.0.0.0/0"]}}, "not a private range"),
        ({"ec2_serving": {"callers": ["10.0.0.1/8"]}}, "host bits set"),
        ({"endpoint": {"kind": "serverless", "capture_percent": 5}}, "serverless"),
        ({"stage": REGION | {"owner": "A, B"}}, "[stage] owner"),
        ({"stage": REGION | {"owner": "R&D"}}, "& cannot be part of a tag"),
        ({"stage": REGION | {"owner": "x" * 257}}, "256"),
        ({"endpoint": {"kind": "async"}}, "set enabled = false; callers use InvokeEndpointAsync"),
        ({"scaling": {"scheduled": [RUSH | {"minimum": 0}]}}, "only with [endpoint] kind = 'async'"),
        ({"scaling": {"scheduled": [RUSH | {"minimum": 7}]}}, "rush: minimum is above maximum"),
        ({"scaling": {"scheduled": [RUSH, RUSH]}}, "a name of its own"),
        ({"scaling": {"scheduled": [RUSH], "profile": "none"}}, "a profile other than none"),
        ({"scaling": {"scheduled": [RUSH]}, "endpoint": {"kind": "serverless"}}, "has no instances"),
        ({"scaling": {"scheduled": [RUSH | {"timezone": "Europe/Berlim"}]}}, "'Europe/Berlim' is no time zone"),
        ({"scaling": {"scheduled": [RUSH | {"schedule": "rate(1 hour)", "timezone": "Europe/Berlin"}]}}, "for cron and at"),
        ({"scaling": {"scheduled": [RUSH | {"schedule": "cron(0 7 * * MON-FRI *)"}]}}, "must be ?"),
        ({"scaling": {"scheduled": [RUSH | {"schedule": "at(2026-12-24T18:00:00)", "start": NOON}]}}, "at happens once"),
        ({"scaling": {"scheduled": [RUSH | {"start": NOON, "end": NOON}]}}, "end is not after start"),
        ({"scaling": {"scheduled": [RUSH | {"start": NOON.replace(tzinfo=None)}]}}, "timezone info"),
        ({"scaling": {"scheduled": [RUSH | {"every": "day"}]}}, "scheduled.0.every"),
    ],
)
def test_what_cannot_be_together(tables, says):
    with pytest.raises(ConfigError) as caught:
        load(**tables)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "tables",
    [
        {"rollout": {"traffic": "linear", "percent": 10, "wait_seconds": 600}, "endpoint": {"update_limit_minutes": 120}},
        {"rollout": {"traffic": "linear", "percent": 30, "wait_seconds": 600}},
        {"rollout": {"wait_seconds": 3600}, "endpoint": {"kind": "serverless", "instance_type": "ml.m5.xlarge"}},
    ],
)
def test_waits_that_leave_an_update_its_time(tables):
    load(**tables)


def test_an_owner_may_be_written_in_any_script_and_as_an_address():
    for owner in ("Équipe Vision", "視覚 2", "vision+on-call@example.com", "team:a/b=c_d.e"):
        assert load(stage=REGION | {"owner": owner}).stage.owner == owner


def test_a_stage_that_is_not_there_names_those_that_are(tmp_path):
    (tmp_path / "prod.toml").write_text("")
    with pytest.raises(ConfigError, match=r"known stages are prod"):
        config.read(tmp_path / "dev.toml")
    (tmp_path / "dev.toml").write_text("[stage\n")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        config.read(tmp_path / "dev.toml")


@pytest.mark.parametrize(
    ("tables", "on_endpoint", "on_ec2"),
    [
        ({}, 480, 480),  # the server's own default: a stage that sets nothing sends no variable
        ({"endpoint": {"startup_timeout_seconds": 1200}}, 960, 480),
        ({"endpoint": {"startup_timeout_seconds": 60}}, 48, 480),
        ({"ec2_serving": {"start_minutes": 60}}, 480, 1440),
        ({"endpoint": {"startup_timeout_seconds": 3600}, "ec2_serving": {"start_minutes": 120}}, 2880, 2880),
        ({"endpoint": {"startup_timeout_seconds": 1200}, "serving": {"load_timeout_seconds": 500}}, 500, 500),
        ({"endpoint": {"startup_timeout_seconds": 1200}, "serving": {"load_timeout_seconds": 480}}, 480, 480),
        ({"endpoint": {"kind": "multi-model", "instance_type": "ml.m5.large", "startup_timeout_seconds": 1200}}, 480, 480),
        (
            {"endpoint": {"kind": "multi-model", "instance_type": "ml.m5.large"}, "serving": {"load_timeout_seconds": 900}},
            900,
            900,
        ),
        ({"endpoint": {"kind": "serverless", "instance_type": "ml.m5.large", "startup_timeout_seconds": 1200}}, 480, 480),
    ],
)
def test_who_gives_a_container_more_time_to_start_gives_its_model_more_time_to_load(tables, on_endpoint, on_ec2):
    stage = load(**tables)
    assert stage.serving_on_endpoint.load_timeout_seconds == on_endpoint
    assert stage.serving_on_ec2.load_timeout_seconds == on_ec2
    assert stage.serving_on_endpoint.model_copy(update={"load_timeout_seconds": 480.0}) == stage.serving.model_copy(
        update={"load_timeout_seconds": 480.0}
    )


@pytest.mark.parametrize("kind", ["real-time", "async"])
def test_a_load_that_may_take_longer_than_sagemaker_waits_is_refused(kind):
    tables = {"endpoint": {"kind": kind}, "function": {"enabled": False}}
    with pytest.raises(ConfigError, match=r"load_timeout_seconds = 600, .*startup_timeout_seconds = 600 SageMaker gives"):
        load(**tables, serving={"load_timeout_seconds": 600})
    assert load(**tables, serving={"load_timeout_seconds": 599}).serving_on_endpoint.load_timeout_seconds == 599


@pytest.mark.parametrize("path", sorted(config.ENVIRONMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_stages_that_come_along_can_be_used(path):
    assert config.read(path).name == path.stem


def test_the_example_shows_every_setting_and_its_default():
    """A line `#name = value` is the default, or an example where it says `# not set`."""
    text = (config.ENVIRONMENTS / "example.toml").read_text(encoding="utf-8")
    lines = [line[1:] if line.startswith("#") and line[1:2].isalpha() else line for line in text.splitlines()]
    shown = tomllib.loads("\n".join(lines))
    unset = {line.split(" = ")[0] for line in lines if line.endswith("# not set")}
    defaults = load().model_dump(mode="json")
    for table, values in defaults.items():
        if table in ("name", "hyperparameters", "serving"):
            continue
        assert set(shown[table]) == set(values), table
        for setting, default in values.items():
            assert (setting in unset) == (default is None), setting
            assert default is None or shown[table][setting] == default, setting
    config.load("dev", shown, where="example.toml")


def test_the_examples_scheduled_action_can_be_used():
    text = (config.ENVIRONMENTS / "example.toml").read_text(encoding="utf-8")
    lines = text.splitlines()
    start = lines.index("# [[scaling.scheduled]]")
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[start : lines.index("#scheduled = []")]))
    (action,) = load(**shown).scaling.scheduled
    assert action.bounds == (2, 6)
    assert set(shown["scaling"]["scheduled"][0]) == set(type(action).model_fields), "every setting is shown"


def test_every_setting_says_what_it_is_for():
    for table, info in config.StageConfig.model_fields.items():
        for name, field in getattr(info.annotation, "model_fields", {}).items():
            assert field.description, f"[{table}] {name}"
    for name, field in ScheduledAction.model_fields.items():
        assert field.description, f"[[scaling.scheduled]] {name}"


def test_every_region_of_every_partition_is_one():
    session = boto3.Session()
    partitions = session.get_available_partitions()
    regions = {name for partition in partitions for name in session.get_available_regions("s3", partition_name=partition)}
    assert {"eu-west-1", "cn-north-1", "us-gov-west-1"} <= regions
    for region in regions:
        assert load(stage={"region": region}).stage.region == region
