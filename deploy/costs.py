"""What a stage costs, from a dated price file with its source named: per hour, per month, at rest and at most."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table

from containers.core.errors import ConfigError
from deploy.config import StageConfig
from deploy.context import Context

PRICES = Path(__file__).parent / "prices"
HOURS_PER_MONTH = 730


class Prices(BaseModel):
    """US dollars; `spot_factor` is the share of the on-demand price that spot is assumed to cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    region: str
    currency: str
    source: str
    assumed: tuple[str, ...]
    spot_factor: float
    sagemaker_per_hour: dict[str, float]
    ec2_per_hour: dict[str, float]
    lambda_provisioned_gb_second: float
    lambda_gb_second: float
    lambda_million_requests: float
    serverless_gb_second: float
    alarm_month: float
    alarm_high_resolution_month: float
    s3_gb_month: float
    ecr_gb_month: float
    ebs_gb_month: float

    @classmethod
    def read(cls, path: Path | None = None) -> "Prices":
        """The newest file in `prices/`, or `path`. Raises ConfigError."""
        path = path or max(PRICES.glob("*.json"))
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ConfigError(f"price file {path} cannot be used: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`minimum` and `maximum` in dollars per hour; None where the price is not known. `standing`: paid without any use."""

    what: str
    minimum: float | None
    maximum: float | None
    note: str = ""
    standing: bool = True


def estimate(config: StageConfig, prices: Prices) -> list[Cost]:
    """What stands all the time (endpoint, function, alarms), then what one hour of a job costs."""
    return [*_standing(config, prices, serving=True), *_jobs(config, prices), _ec2_serving(config, prices, standing=False)]


def serving_on_ec2(config: StageConfig, prices: Prices, *, endpoint: bool) -> list[Cost]:
    """What stands once an instance of `[ec2_serving]` does; `endpoint`: beside SageMaker's."""
    return [*_standing(config, prices, serving=endpoint), _ec2_serving(config, prices, standing=True)]


def _ec2_serving(config: StageConfig, prices: Prices, *, standing: bool) -> Cost:
    kind = config.ec2_serving.instance_type
    price = prices.ec2_per_hour.get(kind)
    note = "while it serves (`release --on ec2`)" if price is not None else "price not known"
    return Cost(what=f"EC2 serving, 1 × {kind}", minimum=price, maximum=price, note=note, standing=standing)


def ceiling(costs: list[Cost]) -> float | None:
    """The most a month can cost of what stands, None where a price is missing."""
    tops = [cost.maximum for cost in costs if cost.standing]
    if any(top is None for top in tops):
        return None
    return sum(top for top in tops if top is not None) * HOURS_PER_MONTH


def _standing(config: StageConfig, prices: Prices, *, serving: bool) -> list[Cost]:
    costs = []
    if serving:
        costs.append(_endpoint(config, prices))
    function = config.function
    if function.enabled and function.provisioned_concurrency:
        per_environment = function.memory_mb / 1024 * 3600 * prices.lambda_provisioned_gb_second
        low, high = function.provisioned_concurrency, max(function.provisioned_concurrency, function.provisioned_maximum)
        what = f"Lambda, {_count(low, high)} warm × {function.memory_mb} MB"
        costs.append(Cost(what=what, minimum=low * per_environment, maximum=high * per_environment, note="plus requests"))
    alarms = 4 if function.enabled else 2
    hourly = alarms * prices.alarm_month / HOURS_PER_MONTH
    costs.append(Cost(what=f"CloudWatch, {alarms} alarms", minimum=hourly, maximum=hourly))
    return costs


def _endpoint(config: StageConfig, prices: Prices) -> Cost:
    endpoint, scaling = config.endpoint, config.scaling
    if endpoint.kind == "serverless":
        most = endpoint.max_concurrency * endpoint.memory_mb / 1024 * 3600 * prices.serverless_gb_second
        return Cost(what="endpoint, serverless", minimum=0.0, maximum=most, note="nothing while nobody asks")
    price = prices.sagemaker_per_hour.get(endpoint.instance_type)
    low, high = scaling.minimum, scaling.maximum
    if scaling.profile == "none":
        low = high = max(1, scaling.minimum)
    note = "double while a release takes over" if endpoint.kind != "async" else ""
    return Cost(
        what=f"endpoint, {_count(low, high)} × {endpoint.instance_type}",
        minimum=None if price is None else low * price,
        maximum=None if price is None else high * price,
        note=note if price is not None else "price not known: add it to a price file",
    )


def _jobs(config: StageConfig, prices: Prices) -> list[Cost]:
    training, ec2 = config.training, config.ec2
    rows = [
        ("SageMaker training", training.instance_type, training.instance_count, training.spot, prices.sagemaker_per_hour),
        ("EC2 training", ec2.instance_type, ec2.instance_count, ec2.spot, prices.ec2_per_hour),
    ]
    costs = []
    for what, kind, count, spot, table in rows:
        price = table.get(kind)
        label = f"{what}, {count} × {kind}" + (" spot" if spot else "")
        if price is None:
            costs.append(Cost(what=label, minimum=None, maximum=None, note="price not known", standing=False))
            continue
        low = count * price * (prices.spot_factor if spot else 1.0)
        note = f"while a job runs; spot assumed at {prices.spot_factor:.0%}" if spot else "while a job runs"
        costs.append(Cost(what=label, minimum=low, maximum=count * price, note=note, standing=False))
    return costs


def _count(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def as_dict(config: StageConfig, prices: Prices) -> dict[str, Any]:
    costs = estimate(config, prices)
    return {
        "prices": {"date": prices.date, "region": prices.region, "source": prices.source, "assumed": list(prices.assumed)},
        "hours_per_month": HOURS_PER_MONTH,
        "costs": [asdict(cost) for cost in costs],
        "ceiling_per_month": ceiling(costs),
        "allowed_per_month": config.stage.price_ceiling_per_month,
    }


def table(config: StageConfig, prices: Prices) -> Table:
    """For people."""
    costs = estimate(config, prices)
    where = "" if prices.region == config.stage.region else f" of {prices.region}, not of {config.stage.region}"
    caption = f"US dollars{where}, prices of {prices.date}. {prices.source}"
    result = Table(title=f"What stage {config.name} costs", caption=caption, caption_justify="left")
    result.add_column("what")
    for heading in ("per hour", "per month (730 h)", "at most per month"):
        result.add_column(heading, justify="right")
    result.add_column("note", style="dim")
    for cost in costs:
        monthly = (_money(cost.minimum, HOURS_PER_MONTH), _money(cost.maximum, HOURS_PER_MONTH)) if cost.standing else ("", "")
        result.add_row(cost.what, _money(cost.minimum, 1), *monthly, cost.note)
    result.add_section()
    low = [cost.minimum for cost in costs if cost.standing]
    least = None if None in low else sum(price for price in low if price is not None)
    result.add_row("all that stands", _money(least, 1), _money(least, HOURS_PER_MONTH), _money(ceiling(costs), 1), style="bold")
    return result


def _money(per_hour: float | None, hours: int) -> str:
    if per_hour is None:
        return "?"
    value = per_hour * hours
    return f"{value:,.4f}" if value < 0.1 else f"{value:,.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prices_argument(parser)


def add_prices_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prices", type=Path, help="a price file of your own, shaped like deploy/prices/*.json")


def run(args: argparse.Namespace, context: Context) -> None:
    """Needs no credentials."""
    prices = Prices.read(args.prices)
    context.emit(as_dict(context.config, prices), lambda: table(context.config, prices))
