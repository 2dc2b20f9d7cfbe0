"""What one job may cost at most, by its machines, its time limit and the price file."""

import argparse

import pytest

from deploy import job_costs
from deploy.job_costs import JobPrice, of_ec2, of_training, of_transform
from deploy.price_file import Prices
from tests.support import aws as fake

PRICES = Prices.read()


def flags(**values) -> argparse.Namespace:
    return argparse.Namespace(prices=None, yes_cost=False, **values)


def test_two_spot_machines_for_six_hours_cost_at_most_what_they_cost_on_demand():
    price = of_training(fake.stage(training={"instance_count": 2, "max_runtime_seconds": 6 * 3600}), PRICES)
    assert price.at_most == pytest.approx(2 * 0.94 * 6)
    assert price.assumed == pytest.approx(2 * 0.94 * 6 * 0.35)
    text = job_costs.said(price, fake.stage(), PRICES)
    assert "up to $11.28, $3.95 at spot's assumed 35%" in text
    assert "2 × ml.g4dn.2xlarge spot, up to 6 h" in text
    assert "prices of 2026-11-25 of us-east-1, not of eu-west-1" in text


def test_on_demand_there_is_one_number():
    config = fake.stage(training={"spot": False})
    assert "assumed" not in job_costs.said(of_training(config, PRICES), config, PRICES)


def test_disks_that_do_not_come_with_the_machine_and_a_warm_pool_are_counted():
    machines = {"instance_type": "ml.m5.xlarge", "instance_count": 3, "volume_gb": 50, "spot": False}
    config = fake.stage(training=machines | {"max_runtime_seconds": 3600, "keep_alive_seconds": 1800})
    assert of_training(config, PRICES).at_most == pytest.approx(1.5 * (3 * 0.23 + 3 * 50 * 0.14 / 730))


GROUPS = [
    {"name": "big", "instance_type": "ml.g4dn.12xlarge"},
    {"name": "small", "instance_type": "ml.m5.xlarge", "instance_count": 2},
]


def test_a_job_of_several_types_costs_what_all_of_them_cost():
    groups = [GROUPS[0], GROUPS[1] | {"instance_type": "ml.g4dn.xlarge"}]
    config = fake.stage(training={"instance_groups": groups, "spot": False})
    price = of_training(config, PRICES)
    assert price.at_most == pytest.approx(6 * (4.89 + 2 * 0.7364))
    assert "SageMaker training, 1 × ml.g4dn.12xlarge + 2 × ml.g4dn.xlarge, up to 6 h" in job_costs.said(price, config, PRICES)
    assert job_costs.billed(price, 3600) == pytest.approx(4.89 + 2 * 0.7364)
    text = refused(price, stage={"price_ceiling_per_month": 1})
    assert "change [training] instance_groups or [training] max_runtime_seconds" in text


def test_of_several_types_those_without_a_disk_of_their_own_pay_for_one():
    groups = [{"name": "own", "instance_type": "ml.m5d.xlarge"}, GROUPS[1]]
    prices = PRICES.model_copy(update={"sagemaker_per_hour": PRICES.sagemaker_per_hour | {"ml.m5d.xlarge": 0.3}})
    config = fake.stage(training={"instance_groups": groups, "spot": False, "volume_gb": 50, "max_runtime_seconds": 3600})
    assert of_training(config, prices).at_most == pytest.approx(0.3 + 2 * 0.23 + 2 * 50 * 0.14 / 730)


def test_of_several_types_the_one_whose_price_is_not_known_is_named():
    groups = [GROUPS[0], {"name": "new", "instance_type": "ml.g9.xlarge"}]
    price = of_training(fake.stage(training={"instance_groups": groups}), PRICES)
    assert (price.at_most, price.parts[0].note) == (None, "price of ml.g9.xlarge not known")


def test_every_trial_of_a_search_may_take_its_whole_time():
    one, twenty = (of_training(fake.stage(), PRICES, trials=trials) for trials in (1, 20))
    assert twenty.at_most == pytest.approx(20 * one.at_most)
    assert twenty.how_long == "20 trials of 6 h"
    assert "--trials" in twenty.bound
    assert "--trials" not in one.bound


def test_instances_of_ones_own_cost_until_they_end_themselves():
    config = fake.stage(ec2={"instance_count": 4, "max_minutes": 90, "volume_gb": 60})
    price = of_ec2(config, PRICES)
    assert price.at_most == price.assumed == pytest.approx(1.5 * 4 * (0.752 + 60 * 0.08 / 730))
    assert of_ec2(fake.stage(ec2={"spot": True}), PRICES).assumed < of_ec2(fake.stage(ec2={"spot": True}), PRICES).at_most


def refused(price: JobPrice, args=None, **tables) -> str:
    return str(job_costs.refusal(args or flags(), fake.stage(**tables), price) or "")


def test_a_job_above_the_ceiling_is_refused_and_told_what_makes_it_cheaper():
    config = fake.stage(training={"instance_count": 100}, stage={"price_ceiling_per_month": 500})
    price = of_training(config, PRICES)
    text = refused(price, stage={"price_ceiling_per_month": 500})
    assert "can cost $564.00 by itself, the file allows $500 a month" in text
    assert "[training] instance_type or [training] max_runtime_seconds" in text
    assert refused(price, stage={"price_ceiling_per_month": 564}) == ""
    said_yes = flags()
    said_yes.yes_cost = True
    assert refused(price, said_yes, stage={"price_ceiling_per_month": 500}) == ""


def test_a_price_that_is_not_known_has_no_ceiling():
    config = fake.stage(training={"instance_type": "ml.p5.48xlarge"})
    price = of_training(config, PRICES)
    assert price.at_most is None
    assert "cost not known: SageMaker training, 2 × ml.p5.48xlarge spot" in job_costs.said(price, config, PRICES)
    assert "--prices FILE" in refused(price)
    document = job_costs.as_dict(flags(), config, price)
    assert (document["at_most"], "--yes-cost" in document["refused"]) == (None, True)


def test_the_bill_is_the_billable_seconds_on_all_machines():
    price = of_training(fake.stage(training={"instance_count": 2}), PRICES)
    assert job_costs.billed(price, 1800) == pytest.approx(0.94)
    assert job_costs.billed(price, None) is None


def test_a_transform_has_a_price_per_hour_and_no_end():
    text = job_costs.said(of_transform("ml.m5.xlarge", 3, PRICES), fake.stage(), PRICES)
    assert "costs $0.69 an hour, $16.56 in 24 h: SageMaker transform, 3 × ml.m5.xlarge, until its last photo" in text
    assert "up to" not in text
    assert "can cost $16.56 in 24 h by itself" in refused(
        of_transform("ml.m5.xlarge", 3, PRICES), stage={"price_ceiling_per_month": 16}
    )
    unknown = job_costs.said(of_transform("ml.new.large", 1, PRICES), fake.stage(), PRICES)
    assert unknown.startswith("cost not known: SageMaker transform, 1 × ml.new.large, until its last photo")
