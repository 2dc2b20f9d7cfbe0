"""What one job may cost: said before it is started, and held against the stage's ceiling.

A job ends by itself, so its worst case is its machines' price times its own time limit; AWS bills what really ran. Only a batch
transform has no limit that could be set: it is held to what a day of it costs, and its price is said per hour. The ceiling
is the stage's `price_ceiling_per_month`, and each job is held against it alone: neither what stands nor other jobs are added.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from deploy import costs
from deploy.config import StageConfig
from deploy.context import Context
from deploy.errors import Refused
from deploy.price_file import Prices

_NO_LIMIT = "until its last photo: SageMaker sets it no limit of time"


@dataclass(frozen=True, kw_only=True)
class JobPrice:
    """`hours` is how long all of `parts` may be paid for; `how_long` says so, and `bound` names what makes it less.

    Not `limited`: nothing ends the job after `hours`.
    """

    parts: tuple[costs.Cost, ...]
    hours: float
    how_long: str
    bound: str
    limited: bool = True

    @property
    def at_most(self) -> float | None:
        """Dollars, at the price on demand, of all `hours`; None where a price is not known."""
        return self._sum([part.maximum for part in self.parts])

    @property
    def assumed(self) -> float | None:
        """Dollars, at the share of the price that spot is assumed to cost."""
        return self._sum([part.minimum for part in self.parts])

    def _sum(self, per_hour: list[float | None]) -> float | None:
        known = [price for price in per_hour if price is not None]
        return sum(known) * self.hours if len(known) == len(per_hour) else None


def of_training(config: StageConfig, prices: Prices, *, trials: int = 1) -> JobPrice:
    """A SageMaker job, or a search of `trials` such jobs. A warm pool is paid for until it is given up."""
    training = config.training
    hours = (training.max_runtime_seconds + training.keep_alive_seconds) / 3600
    many, flag = (f"{trials} trials of ", "--trials or ") if trials > 1 else ("", "")
    parts = tuple(costs.sagemaker_job(config, prices))
    bound = f"{flag}[training] max_runtime_seconds"
    return JobPrice(parts=parts, hours=hours * trials, how_long=f"{many}{hours:g} h", bound=bound)


def of_ec2(config: StageConfig, prices: Prices) -> JobPrice:
    """A run on instances, which end themselves after `max_minutes`."""
    hours = config.ec2.max_minutes / 60
    return JobPrice(parts=tuple(costs.ec2_job(config, prices)), hours=hours, how_long=f"{hours:g} h", bound="[ec2] max_minutes")


def of_transform(kind: str, count: int, prices: Prices) -> JobPrice:
    """A batch transform on `count` machines of this type: CreateTransformJob takes no limit of its time."""
    part = costs.transform_job(kind, count, prices)
    return JobPrice(parts=(part,), hours=24, how_long="24 h", bound="--instances", limited=False)


def hold(args: argparse.Namespace, context: Context, price: JobPrice) -> None:
    """Say the price, then raise Refused where it is above the stage's ceiling, unless --yes-cost was said."""
    context.say(said(price, context.config, Prices.read(args.prices)))
    if refused := refusal(args, context.config, price):
        raise refused


def refusal(args: argparse.Namespace, config: StageConfig, price: JobPrice) -> Refused | None:
    """Why `hold` would stop."""
    if args.yes_cost:
        return None
    where, allowed, machines = f"stage {config.name}", config.stage.price_ceiling_per_month, price.parts[0]
    if price.at_most is None:
        problem = f"the price of {machines.what} is not known, so the job's cost has no ceiling"
        hint = f"give a price file that has it (--prices FILE, shaped like deploy/prices/*.json), change {machines.setting}"
        return Refused(where, problem, hint=f"{hint}, or say --yes-cost")
    if price.at_most > allowed:
        within = "" if price.limited else f" in {price.how_long}"
        problem = f"this job can cost ${price.at_most:,.2f}{within} by itself, the file allows ${allowed:,.0f} a month"
        hint = f"change {machines.setting} or {price.bound}, raise [stage] price_ceiling_per_month, or say --yes-cost"
        return Refused(where, problem, hint=hint)
    return None


def said(price: JobPrice, config: StageConfig, prices: Prices) -> str:
    """One line for people."""
    what = " and ".join(part.what for part in price.parts)
    dated = f"prices of {prices.date}{costs.elsewhere(config, prices)}"
    if price.at_most is None or price.assumed is None:
        return f"cost not known: {what}, {f'up to {price.how_long}' if price.limited else _NO_LIMIT}; {dated}"
    if not price.limited:
        hourly = price.at_most / price.hours
        return f"costs ${hourly:,.2f} an hour, ${price.at_most:,.2f} in {price.how_long}: {what}, {_NO_LIMIT}; {dated}"
    likely = f", ${price.assumed:,.2f} at spot's assumed {prices.spot_factor:.0%}" if price.assumed < price.at_most else ""
    return f"costs up to ${price.at_most:,.2f}{likely}: {what}, up to {price.how_long}; {dated}"


def billed(price: JobPrice, seconds: float | None) -> float | None:
    """Dollars, of DescribeTrainingJob's billable seconds, in which spot's discount is counted already ("Managed Spot Training":
    the savings are one less billable over training seconds); the machines, without their disks.
    """
    per_hour = price.parts[0].maximum
    return None if seconds is None or per_hour is None else round(seconds / 3600 * per_hour, 4)


def as_dict(args: argparse.Namespace, config: StageConfig, price: JobPrice) -> dict[str, Any]:
    """For --json."""
    prices, refused = Prices.read(args.prices), refusal(args, config, price)
    return {
        "at_most": price.at_most,
        "at_the_assumed_spot_price": price.assumed,
        "hours": price.hours,
        "ends_after_these_hours": price.limited,
        "parts": [{"what": part.what, "per_hour": part.maximum} for part in price.parts],
        "allowed_per_month": config.stage.price_ceiling_per_month,
        "prices": {"date": prices.date, "region": prices.region, "assumed_spot_factor": prices.spot_factor},
        "refused": str(refused) if refused else None,
    }
