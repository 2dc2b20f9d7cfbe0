"""SageMaker's front door: the files under /opt/ml become one `TrainingJob`. `bin/train` starts this module as PID 1.

Contract: SageMaker developer guide, "How Amazon SageMaker Runs Your Training Image". The three JSON files are the truth; each
may be missing (a single host, no hyperparameters, channels as they lie in input/data), as under docker compose or by hand.
"""

import signal

if __name__ == "__main__":  # until `FirstProcess` stands: a PID 1 loses a signal that it has no handler for
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from containers.core import host
from containers.core.errors import ConfigError
from containers.core.settings import parse
from containers.train import splits, supervisor
from containers.train.config import TrainConfig
from containers.train.job import Cluster, JobPaths, TrainingJob, scratch_dir

ROOT = Path("/opt/ml")
_CHANNELS = {**splits.NAMES, "data": "train", "pretrained": "pretrained"}
_NOT_OURS = ("sagemaker_", "_tuning_objective_metric")
"""Hyperparameters that the SageMaker SDK and its tuner add of themselves."""


def read_job(
    root: Path = ROOT, environ: Mapping[str, str] = os.environ, interfaces: Collection[str] | None = None
) -> TrainingJob:
    """The job SageMaker describes below `root`. `interfaces` are the network interfaces here (default: /sys/class/net).

    Raises ConfigError with everything that is wrong in any of the files.
    """
    problems: list[str] = []

    def attempt(read: Any, *args: Any) -> Any:
        try:
            return read(*args)
        except ConfigError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename}: cannot be read ({error.strerror}): let this user read it")

    config = attempt(_hyperparameters, root)
    cluster = attempt(_cluster, root, environ, _interfaces() if interfaces is None else interfaces)
    channels = attempt(_channels, root, cluster or Cluster())
    if problems:
        raise ConfigError("\n".join(problems))
    return _job(root, environ, config, cluster, channels)


def stand_in(
    root: Path = ROOT, environ: Mapping[str, str] = os.environ, interfaces: Collection[str] | None = None
) -> TrainingJob:
    """The job's name, hosts and places, where the rest of it cannot be read. Raises ConfigError."""
    return _job(root, environ, TrainConfig(), _cluster(root, environ, _interfaces() if interfaces is None else interfaces), {})


def _job(
    root: Path, environ: Mapping[str, str], config: TrainConfig, cluster: Cluster, channels: dict[str, Path]
) -> TrainingJob:
    name = environ.get("TRAINING_JOB_NAME") or environ.get("SAGEMAKER_JOB_NAME") or "kennel"
    paths = JobPaths(
        model_dir=root / "model",
        output_dir=root / "output/data",
        checkpoint_dir=root / "checkpoints",
        failure_file=root / "output/failure",
        scratch_dir=scratch_dir(name),
    )
    device = environ.get("KENNEL_DEVICE", "auto")
    return TrainingJob(name=name, config=config, cluster=cluster, paths=paths, channels=channels, device=device)


def _json(path: Path) -> dict[str, Any]:
    """A missing or empty file is an empty object."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: should hold a JSON object, not {type(content).__name__}")
    return content


def _hyperparameters(root: Path) -> TrainConfig:
    path = root / "input/config/hyperparameters.json"
    given = {name: value for name, value in _json(path).items() if not name.startswith(_NOT_OURS)}
    return parse(TrainConfig, given, where=str(path))


def _cluster(root: Path, environ: Mapping[str, str], interfaces: Collection[str]) -> Cluster:
    path = root / "input/config/resourceconfig.json"
    given = _json(path)
    if not given:
        return Cluster()
    hosts = tuple(sorted(str(name) for name in given.get("hosts") or ("localhost",)))
    current = str(environ.get("CURRENT_HOST") or given.get("current_host") or hosts[0])
    if current not in hosts:
        raise ConfigError(f"{path}: this host is {current}, which is not among its hosts {', '.join(hosts)}")
    name = given.get("network_interface_name")
    group, groups = _groups(given)
    return Cluster(
        hosts=hosts,
        current_host=current,
        network_interface=name if name in interfaces else None,
        instance_group=group if len(groups) > 1 else None,
    )


def _groups(resources: Mapping[str, Any]) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """(this host's instance group, all of them by name). Hosts of another group may be of another type; all of them train.

    Source: SageMaker developer guide, "Train Using a Heterogeneous Cluster".
    """
    given = resources.get("instance_groups")
    described = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    groups = {str(each["instance_group_name"]): each for each in described if each.get("instance_group_name")}
    current = resources.get("current_group_name")
    return (str(current) if current else None), groups


def _channels(root: Path, cluster: Cluster) -> dict[str, Path]:
    path, data, group = root / "input/config/inputdataconfig.json", root / "input/data", cluster.instance_group
    described = _json(path)
    names = described or {entry.name: {} for entry in sorted(data.iterdir()) if entry.is_dir()} if data.is_dir() else described
    channels: dict[str, Path] = {}
    problems = []
    for name, facts in names.items():
        role = _CHANNELS.get(name.lower())
        facts = facts if isinstance(facts, dict) else {}
        if role is None:
            problems.append(f"{name}: no such channel; known are {', '.join(_CHANNELS)}")
        elif role in channels:
            problems.append(f"{name}: the {role} photos already come from channel {channels[role].name}; give one of them")
        elif facts.get("TrainingInputMode") == "Pipe":
            problems.append(f"{name}: TrainingInputMode Pipe cannot hold a folder of photos; use File or FastFile")
        elif facts.get("S3DistributionType") == "ShardedByS3Key" and len(cluster.hosts) > 1:
            problems.append(
                f"{name}: ShardedByS3Key gives each host other photos; use FullyReplicated, every host reads its share"
            )
        else:
            channels[role] = data / name
    if "train" not in channels and not problems:
        where = f" for instance group {group}: bind it to every group (InstanceGroupNames), or" if group else ":"
        problems.append(f"no train channel{where} give one that holds a folder of photos per class")
    if problems:
        raise ConfigError(f"{path}: {len(problems)} channel problem(s)\n" + "\n".join(f"  - {each}" for each in problems))
    return channels


def _interfaces() -> list[str]:
    network = Path("/sys/class/net")
    return [entry.name for entry in network.iterdir()] if network.is_dir() else []


def environment(job: TrainingJob, root: Path = ROOT) -> dict[str, str]:
    """The SM_* variables that scripts written for AWS's two training launchers read, as far as they say something here."""
    config = root / "input/config"
    cluster, hyperparameters = job.cluster, _json(config / "hyperparameters.json")
    resources = _json(config / "resourceconfig.json")
    group, groups = _groups(resources)
    channels = {path.name: str(path) for path in job.channels.values()}
    exported = {
        "SM_MODEL_DIR": str(job.paths.model_dir),
        "SM_OUTPUT_DIR": str(job.paths.failure_file.parent),
        "SM_OUTPUT_DATA_DIR": str(job.paths.output_dir),
        "SM_INPUT_DIR": str(root / "input"),
        "SM_INPUT_CONFIG_DIR": str(config),
        "SM_HOSTS": json.dumps(cluster.hosts),
        "SM_CURRENT_HOST": cluster.current_host,
        "SM_CURRENT_HOST_RANK": str(cluster.node_rank),
        "SM_HOST_COUNT": str(len(cluster.hosts)),
        "SM_NETWORK_INTERFACE_NAME": cluster.network_interface or "",
        "SM_CURRENT_INSTANCE_TYPE": str(resources.get("current_instance_type") or "local"),
        "SM_CURRENT_INSTANCE_GROUP": group or "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": json.dumps(groups.get(group or "", {}).get("hosts") or cluster.hosts),
        "SM_INSTANCE_GROUPS": json.dumps(list(groups)),
        "SM_INSTANCE_GROUPS_DICT": json.dumps(groups),
        "SM_IS_HETERO": json.dumps(len(groups) > 1),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_HPS": json.dumps(hyperparameters),
        "SM_NUM_CPUS": str(host.cores()),
        "SM_NUM_GPUS": str(host.gpus()),
        "SM_RESOURCE_CONFIG": json.dumps(resources),
        "SM_INPUT_DATA_CONFIG": json.dumps(_json(config / "inputdataconfig.json")),
    }
    for name, path in channels.items():
        exported[f"SM_CHANNEL_{_identifier(name)}"] = path
    for name, value in hyperparameters.items():
        exported[f"SM_HP_{_identifier(name)}"] = str(value)
    return exported


def _identifier(name: str) -> str:
    """An upper-case name that a shell can export: channels may be called `train-images`."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.upper())


def main(root: Path = ROOT) -> int:
    def read() -> TrainingJob:
        job = read_job(root)
        os.environ.update(environment(job, root))
        return job

    if len(sys.argv) > 1:
        raise SystemExit(
            f"train takes no arguments here (got {' '.join(sys.argv[1:])}): hyperparameters go into {root}/input/config"
        )
    return supervisor.run(read, lambda: stand_in(root), failure_file=root / "output/failure")


if __name__ == "__main__":
    raise SystemExit(main())
