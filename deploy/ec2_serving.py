"""`release --on ec2`: the serving image on one plain instance, on a private port, as SageMaker would run it.

Nobody logs in: the instance gets its orders as user data and reports its health to `s3://BUCKET/ec2/RELEASE/status.json`. A new
release is another instance; the one before is ended only when the new one answers with the golden photo's probabilities, which
the server checks itself before it says that it is healthy.
"""

import argparse
import secrets
from pathlib import Path
from typing import Any

from deploy import costs, ec2_launch, plan, quotas, registry
from deploy.config import StageConfig
from deploy.context import Context
from deploy.ec2_network import Rule, SecurityGroup, instances
from deploy.ec2_request import filled, run_uri, tagged
from deploy.ec2_standing import PURPOSE, last_report, standing
from deploy.ec2_template import launch_data
from deploy.engine import Engine, State, found
from deploy.errors import DeployError, TimedOut, explained
from deploy.instance_types import has_gpu
from deploy.names import Names
from deploy.price_file import Prices
from deploy.serving import Release, environment

TEMPLATE = Path(__file__).with_name("serve_user_data.sh")
_LATE_SECONDS = 900.0  # the instance's own start, and its last report


def run(args: argparse.Namespace, context: Context, release: Release) -> None:
    """Raises Refused before anything starts, DeployError where the new instance does not serve; then the old one still does."""
    config, names = context.config, context.names
    _check(args, context, release)
    image_id, root_device = ec2_launch.machine_image(context, "ec2_serving", config.ec2_serving.volume_gb)

    def data(group_id: str) -> State:
        where = {"image_id": image_id, "root_device": root_device, "group_id": group_id}
        return serving_machine(config, names, **where)

    name = f"{names.ec2_release}{context.clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    request = run_instances(config, names, name, release, context.tags)
    context.say(_price(args, config.ec2_serving.instance_type))
    if not context.dry_run:
        quotas.require_vcpus(context, name, config.ec2_serving.instance_type, 1, spot=False)
        registry.keep(context, release.image)
    open_to_old = any(serving.live for serving in standing(context))  # callers of the one before are not cut off meanwhile
    started = ec2_launch.start(context, name, group(context, keep_others=open_to_old), data, request)
    if started is None:
        return
    context.say(f"started {name}: {config.ec2_serving.instance_type}, machine image {image_id}, {', '.join(started)}")
    told = _wait(context, name, started)
    retired = _retire(context, keep=started)
    list(Engine([group(context)]).apply())
    document = told | {"image": release.image, "model_data": release.model_data, "retired": retired}
    context.emit(document, lambda: _said(document))


def group(context: Context, *, keep_others: bool = False) -> SecurityGroup:
    """The port is open to whoever carries the group, and to `[ec2_serving] callers`."""
    serving = context.config.ec2_serving
    rules = [Rule(serving.port, serving.port, source) for source in ("", *serving.callers)]
    return SecurityGroup(context, PURPOSE, rules, keep_others=keep_others)


def serving_machine(config: StageConfig, names: Names, *, image_id: str, root_device: str, group_id: str) -> State:
    """LaunchTemplateData of the instance that serves."""
    where = {"image_id": image_id, "root_device": root_device, "group_id": group_id}
    return launch_data(config, names, config.ec2_serving, principal="ec2serve", **where)


def run_instances(config: StageConfig, names: Names, name: str, release: Release, tags: dict[str, str]) -> State:
    """Everything but the launch template and the subnet. The tags say what is served: nothing else knows."""
    served = {"purpose": PURPOSE, "image": release.image, "model": release.model_data}
    specifications = tagged(tags | served, name, ["instance", "volume"])
    script = user_data(config, names, name, release)
    return {"MinCount": 1, "MaxCount": 1, "UserData": script, "TagSpecifications": specifications}


def user_data(config: StageConfig, names: Names, name: str, release: Release) -> str:
    """The start-up script; every value arrives as one quoted word, whatever is in it."""
    serving = config.ec2_serving
    variables = "".join(f"{key}={value}\n" for key, value in environment(config.serving_on_ec2).items())
    values = {
        "RELEASE": name,
        "IMAGE": release.image,
        "REGION": names.region,
        "LOG_GROUP": names.ec2_log_group,
        "GPUS": "all" if has_gpu(serving.instance_type) else "none",
        "PORT": str(serving.port),
        "START_MINUTES": str(serving.start_minutes),
        "MODEL_URI": release.model_data,
        "RUN_URI": run_uri(names, name),
        "ENVIRONMENT": variables,
    }
    return filled(TEMPLATE, values)


def _check(args: argparse.Namespace, context: Context, release: Release) -> None:
    """One archive, driver and price. Raises DeployError or Refused."""
    config = context.config
    if release.model_data.endswith("/"):
        hint = "name one archive: --job NAME, or --model-data s3://…/model.tar.gz"
        raise DeployError("release", f"{release.model_data} holds many models, and an instance serves one", hint=hint)
    limit, loads_within = config.ec2_serving.start_minutes * 60, config.serving_on_ec2.load_timeout_seconds
    if loads_within >= limit:
        problem = f"[serving] load_timeout_seconds = {loads_within:g}, but the instance ends itself after {limit} s"
        raise DeployError(
            "release", problem, hint="raise [ec2_serving] start_minutes, and leave load_timeout_seconds out: it follows"
        )
    kind = config.ec2_serving.instance_type
    if has_gpu(kind) and release.cuda == "none":
        hint = "set [ec2_serving] instance_type to a CPU type, or release an image built with CUDA"
        raise DeployError("release", f"{kind} has a GPU, but the image has no CUDA", hint=hint)
    prices = Prices.read(args.prices)
    with explained("endpoint"):
        endpoint = found(context.client("sagemaker").describe_endpoint, EndpointName=context.names.endpoint) is not None
    if not context.dry_run:
        plan.within_ceiling(args, context, costs.serving_on_ec2(config, prices, endpoint=endpoint))


def _price(args: argparse.Namespace, kind: str) -> str:
    price = Prices.read(args.prices).ec2_per_hour.get(kind)
    if price is None:
        return f"{kind}: its price is not known, add it to a price file"
    return f"{kind}: ${price:,.2f} an hour, ${price * costs.HOURS_PER_MONTH:,.0f} a month, double while a release takes over"


def _wait(context: Context, name: str, started: list[str]) -> dict[str, Any]:
    """The instance's first healthy report."""

    def state() -> str:
        with explained(f"release {name}"):
            told = last_report(context, name)
            alive = instances(context, {"run": name})
        return str(told.get("state") or ("starting" if alive or context.clock.monotonic() - born < 120 else "gone"))

    born, limit = context.clock.monotonic(), context.config.ec2_serving.start_minutes * 60 + _LATE_SECONDS
    try:
        ended = context.wait(f"release {name}", state, until={"healthy", "failed", "gone"}, limit_seconds=limit)
    except TimedOut as late:
        _end(context, started)
        raise DeployError(late.where, f"{late.problem}; {', '.join(started)} was ended", hint=_look(context, name)) from None
    told = last_report(context, name)
    if ended == "healthy":
        return told
    _end(context, started)
    reason = told.get("reason") or "the instance ended without a word"
    before = [serving.release for serving in standing(context) if serving.state == "healthy"]
    still = f"; {before[0]} still serves" if before else ""
    raise DeployError(name, f"does not serve: {reason}{still}", hint=_look(context, name))


def _look(context: Context, name: str) -> str:
    return f"python -m deploy logs ec2 {name}; the instance's own log: {run_uri(context.names, name, 'instance.log')}"


def _retire(context: Context, *, keep: list[str]) -> list[str]:
    """Ends the instances that served before."""
    with explained("serving on EC2"):
        old = [row["InstanceId"] for row in instances(context, {"purpose": PURPOSE}) if row["InstanceId"] not in keep]
    _end(context, old)
    return old


def _end(context: Context, ids: list[str]) -> None:
    if ids:
        with explained(f"instances {', '.join(ids)}"):
            context.client("ec2").terminate_instances(InstanceIds=ids)


def _said(document: dict[str, Any]) -> str:
    url = f"http://{document['address']}:{document['port']}/invocations"
    ended = f"; ended {', '.join(document['retired'])}" if document["retired"] else ""
    return f"{document['release']} serves at {url} (inside the network){ended}"
