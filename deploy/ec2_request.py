"""RunInstances and the instances' start-up script as data: pure functions of the stage, the names and the run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from deploy.config import StageConfig
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
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.sub(r"@([A-Z_]+)@", lambda match: shlex.quote(values[match[1]]), template)
    if len(script.encode()) > USER_DATA_LIMIT_BYTES:
        raise ValueError(f"user data has {len(script.encode())} bytes; EC2 takes {USER_DATA_LIMIT_BYTES}")
    return script


def has_gpu(instance_type: str) -> bool:
    """EC2's families with NVIDIA devices are g3…g6e and p2…p6."""
    return re.match(r"(g[3-9]|p[2-9])", instance_type) is not None and not instance_type.startswith("g4ad")


def run_instances(
    config: StageConfig, names: Names, run: Run, tags: dict[str, str], *, image_id: str, root_device: str, group_id: str
) -> dict[str, Any]:
    """Everything but the subnet. Given here, not in a launch template: one call is the whole truth of an instance.

    One call for all nodes: `ami-launch-index` is then the rank. The instance ends when it shuts itself down.
    """
    ec2, security = config.ec2, config.security
    volume: dict[str, Any] = {"VolumeSize": ec2.volume_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    if security.kms_key_arn:
        volume["KmsKeyId"] = security.kms_key_arn
    described = tag_list(tags | {"run": run.name, "Name": run.name})
    kinds = ["instance", "volume"]
    request: dict[str, Any] = {
        "ImageId": image_id,
        "InstanceType": ec2.instance_type,
        "MinCount": ec2.instance_count,
        "MaxCount": ec2.instance_count,
        "IamInstanceProfile": {"Name": names.role("ec2")},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": root_device, "Ebs": volume}],
        "SecurityGroupIds": [group_id, *security.security_group_ids],
        "UserData": user_data(config, names, run),
    }
    if ec2.spot:
        once = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": once}
        kinds.append("spot-instances-request")
    request["TagSpecifications"] = [{"ResourceType": kind, "Tags": described} for kind in kinds]
    return request
