"""What a stage costs, from a dated price file with its source named: per hour, per month, at rest and at most."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from deploy.config import StageConfig
from deploy.context import Context
from deploy.instance_types import has_own_disk
from deploy.price_file import Prices

HOURS_PER_MONTH = 730
_LEFT_OUT = "Left out: requests, traffic, logs, a disk that SageMaker puts beside an endpoint's instance."


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`minimum` and `maximum` in dollars per hour; None where the price is not known. `standing`: paid without any use.

    `setting`: of the stage's file, what makes it less.
    """

    what: str
    minimum: float | None
    maximum: float | None
    setting: str
    note: str = ""
    standing: bool = True


def estimate(config: StageConfig, prices: Prices) -> list[Cost]:
    """What stands all the time (endpoint, function, alarms, storage), then what one hour of a job costs."""
    jobs = [*sagemaker_job(config, prices), *ec2_job(config, prices)]
    return [*_standing(config, prices, serving=True), *jobs, *_ec2_serving(config, prices, standing=False)]


def serving_on_ec2(config: StageConfig, prices: Prices, *, endpoint: bool) -> list[Cost]:
    """What stands once an instance of `[ec2_serving]` does; `endpoint`: beside SageMaker's."""
    return [*_standing(config, prices, serving=endpoint), *_ec2_serving(config, prices, standing=True)]


def _ec2_serving(config: StageConfig, prices: Prices, *, standing: bool) -> list[Cost]:
    serving = config.ec2_serving
    price, disk = prices.ec2_per_hour.get(serving.instance_type), serving.volume_gb * prices.ebs_gb_month
    when = "while it serves (`release --on ec2`)"
    instance = Cost(
        what=f"EC2 serving, 1 × {serving.instance_type}",
        minimum=price,
        maximum=price,
        setting="[ec2_serving] instance_type",
        note=when if price is not None else "price not known",
        standing=standing,
    )
    what = f"EC2 serving's disk, {serving.volume_gb} GB"
    return [instance, _monthly(what, disk, "[ec2_serving] volume_gb", note=when, standing=standing)]


def _monthly(what: str, dollars: float, setting: str, *, note: str = "", standing: bool = True) -> Cost:
    hourly = dollars / HOURS_PER_MONTH
    return Cost(what=what, minimum=hourly, maximum=hourly, setting=setting, note=note, standing=standing)


def ceiling(costs: list[Cost]) -> float | None:
    """The most a month can cost of what stands, None where a price is missing."""
    tops = [cost.maximum for cost in costs if cost.standing]
    if any(top is None for top in tops):
        return None
    return sum(top for top in tops if top is not None) * HOURS_PER_MONTH


def _standing(config: StageConfig, prices: Prices, *, serving: bool) -> list[Cost]:
    """`serving`: with SageMaker's endpoint."""
    costs = [_endpoint(config, prices)] if serving else []
    function = config.function
    if function.enabled and function.provisioned_concurrency:
        per_environment = function.memory_mb / 1024 * 3600 * prices.lambda_provisioned_gb_second
        low, high = function.provisioned_concurrency, max(function.provisioned_concurrency, function.provisioned_maximum)
        costs.append(
            Cost(
                what=f"Lambda, {_count(low, high)} warm × {function.memory_mb} MB",
                minimum=low * per_environment,
                maximum=high * per_environment,
                setting="[function] provisioned_concurrency or provisioned_maximum",
                note="plus requests",
            )
        )
    bucket, images = f"S3, {prices.bucket_gb:g} GB", f"ECR, {prices.repositories_gb:g} GB of images"
    assumed = "its size is assumed"
    return [
        *costs,
        *_alarms(config, prices, serving=serving),
        _monthly(bucket, prices.bucket_gb * prices.s3_gb_month, "[storage] checkpoint_days", note=assumed),
        _monthly(images, prices.repositories_gb * prices.ecr_gb_month, "[storage] keep_images", note=assumed),
    ]


def _alarms(config: StageConfig, prices: Prices, *, serving: bool) -> list[Cost]:
    """Ours, and those that Application Auto Scaling makes for our policies. A ten-second metric's cost more."""
    function, scaling, kind = config.function, config.scaling, config.endpoint.kind
    scaled = serving and scaling.profile != "none" and kind != "serverless"
    ours = 2 * serving + 2 * function.enabled + (scaled and kind == "async")  # the last one wakes it up
    quick = scaled and scaling.profile == "concurrency" and kind != "async"
    policies = (scaled and not quick) + bool(function.enabled and function.provisioned_maximum)
    each = prices.alarms_per_tracking_policy
    rows = [
        (ours, "alarms", prices.alarm_month, ""),
        (policies * each, "alarms of target tracking", prices.alarm_month, "made by AWS"),
        (quick * each, "ten-second alarms of target tracking", prices.alarm_high_resolution_month, "made by AWS"),
    ]
    setting = "[scaling] profile"
    return [_monthly(f"CloudWatch, {n} {what}", n * price, setting, note=note) for n, what, price, note in rows if n]


def _endpoint(config: StageConfig, prices: Prices) -> Cost:
    endpoint, scaling = config.endpoint, config.scaling
    if endpoint.kind == "serverless":
        most = endpoint.max_concurrency * endpoint.memory_mb / 1024 * 3600 * prices.serverless_gb_second
        setting, note = "[endpoint] max_concurrency or memory_mb", "nothing while nobody asks"
        return Cost(what="endpoint, serverless", minimum=0.0, maximum=most, setting=setting, note=note)
    price = prices.sagemaker_per_hour.get(endpoint.instance_type)
    low, high = min(low for low, _ in scaling.possible), max(high for _, high in scaling.possible)
    if scaling.profile == "none":
        low = high = max(1, scaling.minimum)
    note = "double while a release takes over"
    count = "minimum" if scaling.profile == "none" else "scheduled" if high > scaling.maximum else "maximum"
    return Cost(
        what=f"endpoint, {_count(low, high)} × {endpoint.instance_type}",
        minimum=None if price is None else low * price,
        maximum=None if price is None else high * price,
        setting=f"[scaling] {count} or [endpoint] instance_type" if high > 1 else "[endpoint] instance_type",
        note=note if price is not None else "price not known: add it to a price file",
    )


def sagemaker_job(config: StageConfig, prices: Prices) -> list[Cost]:
    """One hour of `train`: the machines first, then their disks where these do not come with the machine."""
    what, training, where = "SageMaker training", config.training, "[training]"
    groups, setting = training.machines, "instance_groups" if training.instance_groups else "instance_type"
    kinds = [(group.instance_type, group.instance_count) for group in groups]
    disks = sum(count for kind, count in kinds if not has_own_disk(kind))
    machines = _job(what, kinds, prices.sagemaker_per_hour, prices, f"{where} {setting}", spot=training.spot)
    return [machines, *([_disks(what, disks, training.volume_gb, prices.ml_storage_gb_month, where)] if disks else [])]


def transform_job(kind: str, count: int, prices: Prices) -> Cost:
    """One hour of `transform` on so many machines."""
    price = prices.sagemaker_per_hour.get(kind)
    most = None if price is None else count * price
    what, note = f"SageMaker transform, {count} × {kind}", "while a job runs" if price is not None else "price not known"
    return Cost(what=what, minimum=most, maximum=most, setting="--instance-type", note=note, standing=False)


def ec2_job(config: StageConfig, prices: Prices) -> list[Cost]:
    """One hour of `train --on ec2`: the machines first."""
    what, ec2, where = "EC2 training", config.ec2, "[ec2]"
    kinds, count = [(ec2.instance_type, ec2.instance_count)], ec2.instance_count
    machines = _job(what, kinds, prices.ec2_per_hour, prices, f"{where} instance_type", spot=ec2.spot)
    return [machines, _disks(what, count, ec2.volume_gb, prices.ebs_gb_month, where)]


def _job(what: str, kinds: list[tuple[str, int]], table: dict[str, float], prices: Prices, setting: str, *, spot: bool) -> Cost:
    """`kinds`: machines by type and number, all of one job."""
    label = f"{what}, {' + '.join(f'{count} × {kind}' for kind, count in kinds)}" + (" spot" if spot else "")
    if unknown := [kind for kind, _ in kinds if kind not in table]:
        note = f"price of {' and '.join(unknown)} not known" if len(kinds) > 1 else "price not known"
        return Cost(what=label, minimum=None, maximum=None, setting=setting, note=note, standing=False)
    price = sum(count * table[kind] for kind, count in kinds)
    low = price * (prices.spot_factor if spot else 1.0)
    note = f"while a job runs; spot assumed at {prices.spot_factor:.0%}" if spot else "while a job runs"
    return Cost(what=label, minimum=low, maximum=price, setting=setting, note=note, standing=False)


def _disks(what: str, count: int, volume_gb: int, price: float, where: str) -> Cost:
    label, dollars = f"{what}'s disks, {count} × {volume_gb} GB", count * volume_gb * price
    return _monthly(label, dollars, f"{where} volume_gb", note="while a job runs", standing=False)


def _count(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def as_dict(config: StageConfig, prices: Prices) -> dict[str, Any]:
    costs = estimate(config, prices)
    return {
        "prices": {"date": prices.date, "region": prices.region, "source": prices.source, "assumed": list(prices.assumed)},
        "left_out": _LEFT_OUT,
        "hours_per_month": HOURS_PER_MONTH,
        "costs": [asdict(cost) for cost in costs],
        "ceiling_per_month": ceiling(costs),
        "allowed_per_month": config.stage.price_ceiling_per_month,
    }


def table(config: StageConfig, prices: Prices) -> Table:
    """For people."""
    costs = estimate(config, prices)
    where = elsewhere(config, prices)
    caption = f"US dollars{where}, prices of {prices.date}. {prices.source} Assumed: {', '.join(prices.assumed)}. {_LEFT_OUT}"
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


def elsewhere(config: StageConfig, prices: Prices) -> str:
    """Where the price file is of another region than the stage."""
    return "" if prices.region == config.stage.region else f" of {prices.region}, not of {config.stage.region}"


def _money(per_hour: float | None, hours: int) -> str:
    if per_hour is None:
        return "?"
    value = per_hour * hours
    return f"{value:,.4f}" if value < 0.1 else f"{value:,.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prices_argument(parser)


def add_prices_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prices", type=Path, help="a price file of your own, shaped like deploy/prices/*.json")


def add_ceiling_arguments(parser: argparse.ArgumentParser) -> None:
    """For every command that spends and is held to the stage's ceiling."""
    add_prices_argument(parser)
    parser.add_argument("--yes-cost", action="store_true", help="go above the stage's price_ceiling_per_month")


def run(args: argparse.Namespace, context: Context) -> None:
    """Needs no credentials."""
    prices = Prices.read(args.prices)
    context.emit(as_dict(context.config, prices), lambda: table(context.config, prices))
