"""The price of a stage, from a dated file."""

import io
import json

import pytest
from rich.console import Console

from containers.core.errors import ConfigError
from deploy import config, costs

SEED = config.read(config.ENVIRONMENTS / "dev.toml")


def test_the_seeds_configuration():
    """Training on ml.g4dn.2xlarge ×2 spot, EC2 g4dn.2xlarge, endpoint 1–4 ml.g4dn.xlarge, three warm Lambda environments."""
    prices = costs.Prices.read(costs.PRICES / "2026-11-22.json")
    rows = {cost.what: cost for cost in costs.estimate(SEED, prices)}
    endpoint = rows["endpoint, 1–4 × ml.g4dn.xlarge"]
    assert (endpoint.minimum, endpoint.maximum) == (0.7364, pytest.approx(2.9456))
    training = rows["SageMaker training, 2 × ml.g4dn.2xlarge spot"]
    assert (training.minimum, training.maximum) == (pytest.approx(0.658), pytest.approx(1.88))
    assert "assumed" in training.note
    assert rows["EC2 training, 1 × g4dn.2xlarge"].maximum == pytest.approx(0.752)
    assert rows["Lambda, 3 warm × 512 MB"].minimum == pytest.approx(3 * 0.5 * 3600 * 0.0000041667)
    assert costs.ceiling(costs.estimate(SEED, prices)) == pytest.approx(2167.11, abs=0.01)


def test_the_table_names_its_source_and_its_date():
    text = io.StringIO()
    Console(file=text, width=140).print(costs.table(SEED, costs.Prices.read()))
    assert "prices of 2026-11-22" in text.getvalue()
    assert "not fetched from AWS" in text.getvalue()
    assert "2,167.11" in text.getvalue()


def test_a_price_that_is_not_known_gives_no_ceiling():
    unknown = config.load("dev", {"stage": {"region": "eu-west-1"}, "endpoint": {"instance_type": "ml.g9.huge"}}, where="")
    assert costs.ceiling(costs.estimate(unknown, costs.Prices.read())) is None


@pytest.mark.parametrize(("kind", "low"), [("serverless", 0.0), ("async", 0.0)])
def test_what_scales_to_zero_costs_nothing_at_rest(kind, low):
    tables = {"stage": {"region": "eu-west-1"}, "endpoint": {"kind": kind}, "function": {"enabled": False}}
    if kind == "async":
        tables["scaling"] = {"minimum": 0}
    stage = config.load("dev", tables, where="")
    assert costs.estimate(stage, costs.Prices.read())[0].minimum == low


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "prices.json"
    own = json.loads((costs.PRICES / "2026-11-22.json").read_text()) | {"region": "eu-west-1", "source": "our contract"}
    path.write_text(json.dumps(own))
    assert costs.Prices.read(path).source == "our contract"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used"):
        costs.Prices.read(path)
