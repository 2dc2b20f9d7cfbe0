"""The price of a stage, from a dated file."""

import io
import json

import pytest
from rich.console import Console

from containers.core.errors import ConfigError
from deploy import config, costs, price_file
from deploy.price_file import Prices
from deploy.training_request import Run, training_job
from tests.support import aws as fake

SEED = config.read(config.ENVIRONMENTS / "dev.toml")


def test_the_seeds_configuration():
    """Training on ml.g4dn.2xlarge ×2 spot, EC2 g4dn.2xlarge, endpoint 1–4 ml.g4dn.xlarge, three warm Lambda environments."""
    prices = Prices.read(price_file.PRICES / "2026-11-25.json")
    rows = {cost.what: cost for cost in costs.estimate(SEED, prices)}
    endpoint = rows["endpoint, 1–4 × ml.g4dn.xlarge"]
    assert (endpoint.minimum, endpoint.maximum) == (0.7364, pytest.approx(2.9456))
    training = rows["SageMaker training, 2 × ml.g4dn.2xlarge spot"]
    assert (training.minimum, training.maximum) == (pytest.approx(0.658), pytest.approx(1.88))
    assert "assumed" in training.note
    assert rows["EC2 training, 1 × g4dn.2xlarge"].maximum == pytest.approx(0.752)
    assert rows["Lambda, 3 warm × 512 MB"].minimum == pytest.approx(3 * 0.5 * 3600 * 0.0000041667)
    assert costs.ceiling(costs.estimate(SEED, prices)) == pytest.approx(2168.34, abs=0.01)


def test_the_table_names_its_source_and_its_date():
    text = io.StringIO()
    Console(file=text, width=140).print(costs.table(SEED, Prices.read()))
    assert "prices of 2026-11-25" in text.getvalue()
    assert "not fetched from AWS" in text.getvalue()
    flowing = " ".join(text.getvalue().split())
    assert "Assumed: spot_factor, bucket_gb, repositories_gb, alarms_per_tracking_policy, ml_storage_gb_month." in flowing
    assert "Left out: requests, traffic, logs" in flowing
    assert "2,168.34" in text.getvalue()


def test_a_price_that_is_not_known_gives_no_ceiling():
    unknown = config.load("dev", {"stage": {"region": "eu-west-1"}, "endpoint": {"instance_type": "ml.g9.huge"}}, where="")
    assert costs.ceiling(costs.estimate(unknown, Prices.read())) is None


@pytest.mark.parametrize(("kind", "low"), [("serverless", 0.0), ("async", 0.0)])
def test_what_scales_to_zero_costs_nothing_at_rest(kind, low):
    tables = {"stage": {"region": "eu-west-1"}, "endpoint": {"kind": kind}, "function": {"enabled": False}}
    if kind == "async":
        tables["scaling"] = {"minimum": 0}
    stage = config.load("dev", tables, where="")
    assert costs.estimate(stage, Prices.read())[0].minimum == low


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "prices.json"
    own = json.loads((price_file.PRICES / "2026-11-25.json").read_text()) | {"region": "eu-west-1", "source": "our contract"}
    path.write_text(json.dumps(own))
    assert Prices.read(path).source == "our contract"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used"):
        Prices.read(path)


def test_what_is_assumed_is_part_of_the_file():
    assert set(Prices.read().assumed) < set(Prices.model_fields)


def test_a_stage_costs_at_most_what_its_highest_scheduled_bounds_do():
    rush = {"name": "rush", "schedule": "cron(0 7 ? * MON-FRI *)", "minimum": 6, "maximum": 9}
    stage = fake.stage(scaling={"minimum": 2, "maximum": 4, "scheduled": [rush]}, function={"enabled": False})
    cost = rows(stage)["endpoint, 2–9 × ml.g4dn.xlarge"]
    assert (cost.minimum, cost.maximum) == (pytest.approx(2 * 0.7364), pytest.approx(9 * 0.7364))
    assert cost.setting == "[scaling] scheduled or [endpoint] instance_type"
    night = {"name": "night", "schedule": "cron(0 22 ? * MON-FRI *)", "minimum": 1, "maximum": 1}
    quiet = fake.stage(scaling={"minimum": 2, "maximum": 4, "scheduled": [night]})
    assert rows(quiet)["endpoint, 1–4 × ml.g4dn.xlarge"].setting == "[scaling] maximum or [endpoint] instance_type"


def rows(stage) -> dict[str, costs.Cost]:
    return {cost.what: cost for cost in costs.estimate(stage, Prices.read())}


@pytest.mark.parametrize(("kind", "gb"), [("ml.m5.xlarge", 3 * 50), ("ml.g4dn.2xlarge", 0)])
def test_a_training_volume_is_paid_where_the_request_asks_for_one(kind, gb):
    """Types with a disk of their own get no volume."""
    stage = fake.stage(training={"instance_type": kind, "instance_count": 3, "volume_gb": 50})
    names = fake.context(stage).names_in(fake.ACCOUNT)
    run = Run(name="r", image="", dataset="d", channels=(), hyperparameters=stage.hyperparameters, checkpoints="r")
    machines = training_job(stage, names, run, {})["ResourceConfig"]
    assert machines.get("VolumeSizeInGB", 0) * machines["InstanceCount"] == gb
    found = rows(stage).get("SageMaker training's disks, 3 × 50 GB")
    assert (found.maximum if found else 0) == pytest.approx(gb * 0.14 / 730)


def test_instance_groups_are_one_row_of_the_table():
    small = {"name": "small", "instance_type": "ml.g5.xlarge", "instance_count": 3}
    groups = [{"name": "big", "instance_type": "ml.g4dn.12xlarge"}, small]
    found = rows(fake.stage(training={"instance_groups": groups}))
    assert "SageMaker training, 2 × ml.g4dn.2xlarge spot" not in found
    row = found["SageMaker training, 1 × ml.g4dn.12xlarge + 3 × ml.g5.xlarge spot"]
    assert (row.maximum, row.setting) == (pytest.approx(4.89 + 3 * 1.408), "[training] instance_groups")
    assert row.minimum == pytest.approx(row.maximum * 0.35)


def test_the_disks_of_instances_are_counted_and_stand_with_the_one_that_serves():
    stage = fake.stage(ec2={"instance_count": 2, "volume_gb": 60}, ec2_serving={"volume_gb": 200})
    found = rows(stage)
    assert found["EC2 training's disks, 2 × 60 GB"].maximum == pytest.approx(120 * 0.08 / 730)
    assert not found["EC2 serving's disk, 200 GB"].standing
    prices = Prices.read()
    standing = {cost.what: cost for cost in costs.serving_on_ec2(stage, prices, endpoint=False) if cost.standing}
    assert standing["EC2 serving's disk, 200 GB"].maximum == pytest.approx(200 * 0.08 / 730)
    assert not any(what.startswith("endpoint") for what in standing)


def test_bucket_and_repositories_cost_at_rest():
    found = rows(SEED)
    assert found["S3, 10 GB"].minimum == pytest.approx(0.23 / 730)
    assert found["ECR, 8 GB of images"].minimum == pytest.approx(0.8 / 730)
    assert "assumed" in found["S3, 10 GB"].note
