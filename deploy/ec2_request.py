"""RunInstances and the instances' start-up script as data: pure functions of the stage, the names and the run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from containers.core.errors import ConfigError
from deploy.config import StageConfig
from deploy.ec2_template import launch_data
from deploy.instance_types import has_gpu
from deploy.names import Names
from deploy.storage import CHECKPOINTS, DATA, EC2, TRAINING, tag_list
from deploy.training_request import Run, hyperparameters

TEMPLATE = Path(__file__).with_name("user_data.sh")
USER_DATA_LIMIT_BYTES = 16_384  # EC2's, before base64


def run_uri(names: Names, run: str, *parts: str) -> str:
    """Where a run's nodes meet and report."""
    return names.uri(EC2, run, *parts)


def model_uri(names: Names, run: str) -> str:
    """As SageMaker would name it, so that `release` takes either."""
    return names.uri(TRAINING, run, "output/model.tar.gz")


def user_data(config: StageConfig, names: Names, run: Run) -> str:
    """The start-up script; every value arrives as one quoted word, whatever is in it."""
    values = {
        "RUN": run.name,
        "IMAGE": run.image,
        "REGION": names.region,
        "LOG_GROUP": names.ec2_log_group,
        "NODES": str(config.ec2.instance_count),
        "MAX_MINUTES": str(config.ec2.max_minutes),
        "GPUS": "all" if has_gpu(config.ec2.instance_type) else "none",
        "DATA_URI": names.uri(DATA, run.dataset),
        "RUN_URI": run_uri(names, run.name),
        "MODEL_URI": model_uri(names, run.name),
        "CHECKPOINT_URI": names.uri(CHECKPOINTS, run.checkpoints),
        "HYPERPARAMETERS": json.dumps(hyperparameters(run.hyperparameters)),
        "CHANNELS": json.dumps({channel: {"TrainingInputMode": "File"} for channel in run.channels}),
    }
    return filled(TEMPLATE, values)


def filled(template: Path, values: dict[str, str]) -> str:
    """`template` with a quoted word in place of each @NAME@. Raises ConfigError where EC2 would not take it."""
    script = re.sub(r"@([A-Z_]+)@", lambda match: shlex.quote(values[match[1]]), template.read_text(encoding="utf-8"))
    if len(script.encode()) > USER_DATA_LIMIT_BYTES:
        longest = max(values, key=lambda name: len(shlex.quote(values[name])))
        raise ConfigError(
            f"the instances' start-up script has {len(script.encode())} bytes, EC2 takes {USER_DATA_LIMIT_BYTES}: "
            f"shorten {longest.lower()}, the longest thing in it ({len(values[longest])} characters)"
        )
    return script


def training_machine(config: StageConfig, names: Names, *, image_id: str, root_device: str, group_id: str) -> dict[str, Any]:
    """LaunchTemplateData of the instances that train."""
    where = {"image_id": image_id, "root_device": root_device, "group_id": group_id}
    return launch_data(config, names, config.ec2, principal="ec2", **where)


def run_instances(config: StageConfig, names: Names, run: Run, tags: dict[str, str]) -> dict[str, Any]:
    """Everything but the launch template and the subnet. One call for all nodes: `ami-launch-index` is then the rank."""
    ec2 = config.ec2
    request: dict[str, Any] = {
        "MinCount": ec2.instance_count,
        "MaxCount": ec2.instance_count,
        "UserData": user_data(config, names, run),
    }
    kinds = ["instance", "volume"]
    if ec2.spot:
        once = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": once}
        kinds.append("spot-instances-request")
    return request | {"TagSpecifications": tagged(tags, run.name, kinds)}


def tagged(tags: dict[str, str], run: str, kinds: list[str]) -> list[dict[str, Any]]:
    """TagSpecifications of one run's instances and of what comes with them."""
    described = tag_list(tags | {"run": run, "Name": run})
    return [{"ResourceType": kind, "Tags": described} for kind in kinds]
