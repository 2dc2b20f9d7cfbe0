"""`status`: what stands, what serves, what it can go back to, which alarms ring, and what else runs and costs."""

import argparse
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from deploy import ec2_standing, releases
from deploy.autoscaling import DIMENSION
from deploy.context import Context
from deploy.ec2_network import instances
from deploy.engine import found
from deploy.errors import DeployError, explained
from deploy.function import Lambda
from deploy.jobs import RunningJobs
from deploy.names import ALIAS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(args: argparse.Namespace, context: Context) -> None:
    del args
    with explained(f"stage {context.config.name}"):
        document = {
            "stage": context.config.name,
            "account": context.account,
            "region": context.region,
            "endpoint": _endpoint(context),
            "ec2_serving": [asdict(serving) for serving in ec2_standing.standing(context)],
            "function": _function(context),
            "alarms": _alarms(context),
            "training_jobs": _jobs(context),
            "running_jobs": [{"kind": kind, "name": name} for kind, name in RunningJobs(context).alive()],
            "ec2_training": _runs_on_ec2(context),
        }
    context.emit(document, lambda: _tables(document))


def _endpoint(context: Context) -> dict[str, Any] | None:
    endpoint = found(context.client("sagemaker").describe_endpoint, EndpointName=context.names.endpoint)
    if endpoint is None:
        return None
    release, note = None, None
    try:
        with explained(f"endpoint-config/{endpoint['EndpointConfigName']}"):
            release = releases.of_config(context, endpoint["EndpointConfigName"])
    except DeployError as error:  # the person who looks needs the rest all the more
        note = str(error)
    variant: dict[str, Any] = next(iter(endpoint.get("ProductionVariants") or []), {})
    return {
        "name": context.names.endpoint,
        "status": endpoint["EndpointStatus"],
        "failure": endpoint.get("FailureReason"),
        "config": endpoint["EndpointConfigName"],
        "note": note,
        "moving_to": endpoint.get("PendingDeploymentSummary", {}).get("EndpointConfigName"),
        "instances": variant.get("CurrentInstanceCount"),
        "bounds": _bounds(context),
        "image": release and release.image,
        "model_data": release and release.model_data,
        "releases": [past.config for past in releases.past(context)],
    }


def _bounds(context: Context) -> str | None:
    """Between which numbers of instances it scales now: a scheduled action changes them. None where it does not scale."""
    targets = context.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[context.names.variant_resource], ScalableDimension=DIMENSION
    )["ScalableTargets"]
    return f"{targets[0]['MinCapacity']}–{targets[0]['MaxCapacity']}" if targets else None


def _function(context: Context) -> dict[str, Any] | None:
    function = Lambda(context)
    seen = found(function.client.get_function_configuration, FunctionName=function.name)
    if seen is None:
        return None
    live = function.live_version()
    warm = live and found(function.client.get_provisioned_concurrency_config, FunctionName=function.name, Qualifier=live)
    url = found(function.client.get_function_url_config, FunctionName=function.name, Qualifier=ALIAS)
    return {
        "name": function.name,
        "live_version": live,
        "warm": (warm or {}).get("AllocatedProvisionedConcurrentExecutions", 0),
        "url": url["FunctionUrl"] if url else None,
    }


def _alarms(context: Context) -> dict[str, str]:
    rows = context.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{context.names.base}-")["MetricAlarms"]
    return {row["AlarmName"]: row["StateValue"] for row in rows}


def _jobs(context: Context) -> list[dict[str, Any]]:
    """The latest five of this stage."""
    rows = context.client("sagemaker").list_training_jobs(
        NameContains=f"{context.names.base}-", SortBy="CreationTime", SortOrder="Descending", MaxResults=5
    )["TrainingJobSummaries"]
    return [{"name": row["TrainingJobName"], "status": row["TrainingJobStatus"]} for row in rows]


def _runs_on_ec2(context: Context) -> list[dict[str, Any]]:
    """Of `train --on ec2`, whether or not anybody watches them."""
    runs: dict[str, dict[str, Any]] = {}
    for row in instances(context, {}):
        tags = {tag["Key"]: tag["Value"] for tag in row.get("Tags", [])}
        if tags.get("purpose") == ec2_standing.PURPOSE:
            continue
        name, since = tags.get("run", "without a run's tag"), row["LaunchTime"].isoformat(timespec="seconds")
        run = runs.setdefault(name, {"run": name, "instance_type": row["InstanceType"], "since": since, "instances": []})
        run["instances"].append(row["InstanceId"])
    return list(runs.values())


def _tables(document: dict[str, Any]) -> Group:
    result = Table(title=f"Stage {document['stage']} in {document['account']}, {document['region']}", show_header=False)
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for part in ("endpoint", "function"):
        values = document[part]
        result.add_row(part, "" if values else "none")
        for name, value in (values or {}).items():
            if value not in (None, []):
                result.add_row(f"  {name}", ", ".join(value) if isinstance(value, list) else str(value))
    for serving in document["ec2_serving"]:
        where = f"http://{serving['address']}:{serving['port']}"
        reported = f" ({serving['at']})" if serving["at"] else ""
        title = "serving on EC2" if serving["live"] else "on EC2, not live"
        result.add_row(title, f"{serving['release']} {serving['state']}{reported}, {where}, {serving['instance']}")
        result.add_row("  model_data", serving["model_data"])
    ringing = [name for name, state in document["alarms"].items() if state == "ALARM"]
    quiet = f"{len(document['alarms'])} alarms, none rings"
    result.add_row("alarms", f"[red]RINGING: {', '.join(ringing)}[/]" if ringing else quiet)
    result.add_row("training jobs", "\n".join(f"{job['name']} {job['status']}" for job in document["training_jobs"]) or "none")
    kinds = {"HyperParameterTuningJob": "search", "TrainingJob": "training job", "TransformJob": "transform"}
    running = [f"{kinds[job['kind']]} {job['name']}" for job in document["running_jobs"]]
    for run in document["ec2_training"]:
        many = f"{len(run['instances'])} × {run['instance_type']}"
        running.append(f"training on EC2 {run['run']}, {many} since {run['since']}, {', '.join(run['instances'])}")
    result.add_row("running now", "\n".join(running) or "nothing")
    return Group(result)
