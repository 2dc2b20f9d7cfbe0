"""A SageMaker job of several instance groups: what can be together, and what a stage's file says of it."""

import tomllib

import pytest

from containers.core.errors import ConfigError
from deploy import config
from deploy.training_tables import InstanceGroup

REGION = {"region": "eu-west-1"}
BIG = {"name": "big", "instance_type": "ml.g4dn.12xlarge"}
SMALL = {"name": "small", "instance_type": "ml.g4dn.xlarge", "instance_count": 2}
CPU = {"name": "cpu", "instance_type": "ml.m5.xlarge"}
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"


def load(**tables):
    return config.load("dev", {"stage": REGION} | tables, where="dev.toml")


def test_groups_take_the_place_of_one_type():
    training = load(training={"instance_groups": [BIG, SMALL]}).training
    assert (training.said, training.hosts) == ("1 × ml.g4dn.12xlarge + 2 × ml.g4dn.xlarge", 3)
    assert [group.name for group in training.machines] == ["big", "small"]
    (one,) = load().training.machines
    assert (one.instance_type, one.instance_count, load().training.hosts) == ("ml.g4dn.2xlarge", 2, 2)


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"instance_groups": [BIG, SMALL], "instance_count": 2}, "leave out instance_count"),
        (
            {"instance_groups": [BIG, SMALL], "instance_type": "ml.g4dn.xlarge", "instance_count": 2},
            "takes the place of instance_type and instance_count: leave out instance_count and instance_type",
        ),
        ({"instance_groups": [BIG, SMALL | {"name": "big"}]}, "each of instance_groups needs a name of its own"),
        ({"instance_groups": [BIG, CPU]}, "a mixture cannot train together"),
        ({"instance_groups": [BIG, SMALL], "spot": False, "keep_alive_seconds": 60}, "keeps no warm pool"),
        ({"instance_groups": [BIG | {"name": f"g{number}"} for number in range(6)]}, "at most 5 items"),
        ({"instance_groups": [BIG | {"instance_type": "g4dn.xlarge"}]}, "instance_groups.0.instance_type"),
        ({"instance_groups": [BIG | {"instance_count": 0}]}, "instance_groups.0.instance_count"),
        ({"instance_groups": [BIG | {"name": "a b"}]}, "instance_groups.0.name"),
        ({"instance_groups": [BIG | {"kind": "x"}]}, "instance_groups.0.kind"),
    ],
)
def test_what_cannot_be_together(training, says):
    with pytest.raises(ConfigError) as caught:
        load(training=training)
    assert says in str(caught.value)


def test_a_volume_key_fits_types_of_one_kind_of_disk():
    mixed = [{"name": "c5d", "instance_type": "ml.c5d.2xlarge"}, CPU]
    load(training={"instance_groups": mixed})
    load(
        training={"instance_groups": [CPU, CPU | {"name": "m5", "instance_type": "ml.m5.2xlarge"}]},
        security={"kms_key_arn": KEY},
    )
    with pytest.raises(ConfigError, match="choose types of one kind"):
        load(training={"instance_groups": mixed}, security={"kms_key_arn": KEY})


def test_the_examples_groups_can_be_used():
    lines = (config.ENVIRONMENTS / "example.toml").read_text(encoding="utf-8").splitlines()
    start, end = lines.index("# [[training.instance_groups]]"), lines.index("#instance_groups = []")
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[start:end]))
    training = load(**shown).training
    assert len(training.instance_groups) == 2
    assert set(shown["training"]["instance_groups"][0]) == set(InstanceGroup.model_fields), "every setting is shown"


def test_every_setting_of_a_group_says_what_it_is_for():
    for name, field in InstanceGroup.model_fields.items():
        assert field.description, name
