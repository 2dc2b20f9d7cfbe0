"""Instances that serve on EC2, as their tags and their last report tell: which there are, and which one is live."""

import json
from dataclasses import dataclass
from typing import Any

from deploy.context import Context
from deploy.ec2_network import instances
from deploy.engine import found
from deploy.errors import DeployError, explained
from deploy.serving import Release
from deploy.storage import EC2

PURPOSE = "serve"
_HAVE_SERVED = ("healthy", "unhealthy")  # an instance is unhealthy only after it was healthy once; the best first


@dataclass(frozen=True, kw_only=True)
class Serving:
    """An instance that serves, or is about to. `state` and `at` are its last report's; `address` is private.

    `live`: what callers should reach, and what the next release starts from.
    """

    instance: str
    release: str
    address: str
    port: int
    state: str
    at: str
    image: str
    model_data: str
    live: bool = False


def standing(context: Context) -> list[Serving]:
    """Instances that serve or begin to, the newest first. One that is starting, or failed, is never the live one."""
    with explained("serving on EC2"):
        rows = [row for row in instances(context, {"purpose": PURPOSE}) if row["State"]["Name"] in ("pending", "running")]
        newest = sorted(rows, key=lambda row: row["LaunchTime"], reverse=True)
        seen = [_described(context, row) for row in newest]
    served = [serving for state in _HAVE_SERVED for serving in seen if serving["state"] == state]
    return [Serving(**serving, live=serving is next(iter(served), None)) for serving in seen]


def live(context: Context) -> Release | None:
    """What the newest healthy instance serves, else one that has been healthy; None where there is none."""
    serving = next((serving for serving in standing(context) if serving.live), None)
    return None if serving is None else Release(image=serving.image, model_data=serving.model_data, cuda="unknown")


def _described(context: Context, row: dict[str, Any]) -> dict[str, Any]:
    tags = {tag["Key"]: tag["Value"] for tag in row.get("Tags", [])}
    if missing := [name for name in ("run", "image", "model") if name not in tags]:
        hint = "put the tags back, or end it: it carries this stage's tags and serves nothing that is known here"
        raise DeployError(f"instance {row['InstanceId']}", f"has lost its tags {', '.join(missing)}", hint=hint)
    told = last_report(context, tags["run"])
    return {
        "instance": row["InstanceId"],
        "release": tags["run"],
        "address": row.get("PrivateIpAddress", ""),
        "port": told.get("port", context.config.ec2_serving.port),
        "state": told.get("state", "starting"),
        "at": told.get("at", ""),
        "image": tags["image"],
        "model_data": tags["model"],
    }


def last_report(context: Context, name: str) -> dict[str, Any]:
    """Of release `name`; empty before the first. Raises DeployError where it is none."""
    key = f"{EC2}/{name}/status.json"
    with explained(context.names.uri(key)):
        answer = found(context.client("s3").get_object, **context.names.in_bucket, Key=key)
        text = answer["Body"].read() if answer else b"{}"
    try:
        told = dict(json.loads(text))
        return told | ({"port": int(told["port"])} if "port" in told else {})
    except (ValueError, TypeError):
        hint = "somebody else wrote it: delete it, the instance reports again within five minutes"
        raise DeployError(context.names.uri(key), "is no report of an instance", hint=hint) from None
